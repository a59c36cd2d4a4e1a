//! Rotary embedding: every kind of scaling resolved into one inverse frequency per rotated pair.
//!
//! The arithmetic is f32 as in transformers' `modeling_rope_utils.py`, so that angles at far positions come out
//! alike: one unit in the last place of a frequency is 10⁻³ rad at position 10⁵.

use std::f32::consts::PI;

use crate::family::Yarn;

/// Rotary position embedding with all scaling resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    pub layout: RopeLayout,
    pub theta: f64,
    pub scaling: RopeScaling,
    /// Angle per position of each rotated pair; length = rotated dimensions / 2. Dimensions beyond
    /// `2 * inverse_frequencies.len()` pass unrotated.
    pub inverse_frequencies: Vec<f32>,
    /// Multiplies cos and sin (yarn, longrope); 1 otherwise.
    pub attention_factor: f32,
}

/// Which dimensions form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(i, i + n/2)`: most Hugging Face weights, and GGUF of the families llama.cpp calls NEOX.
    Half,
    /// `(2i, 2i + 1)`: Cohere and GLM, and GGUF of Llama and Mistral, whose q and k rows the converter permuted.
    Interleaved,
}

/// How frequencies are stretched for contexts longer than the pretraining's.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions divided by `factor`.
    Linear {
        factor: f32,
    },
    /// The base grows with the sequence beyond `from` tokens.
    Dynamic {
        factor: f32,
        from: usize,
    },
    /// Long waves divided by `factor`, short ones kept, those between blended (Llama 3.1).
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: f32,
    },
    /// Long waves divided by `factor`, short ones kept, by how often they turn in the original context.
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_context: f64,
        truncate: bool,
        attention_factor: f32,
    },
    /// A divisor for each pair, others for sequences longer than the original context.
    LongRope {
        short: Vec<f32>,
        long: Vec<f32>,
        original_context: usize,
        attention_factor: f32,
    },
    /// A divisor for each pair, wherever it came from (GGUF's `rope_freqs.weight`).
    Factors(Vec<f32>),
}

impl From<Yarn> for RopeScaling {
    fn from(yarn: Yarn) -> Self {
        let Yarn { factor, beta_fast, beta_slow, original_context, truncate } = yarn;
        let (original_context, attention_factor) =
            (original_context as f64, yarn_magnitude(factor, 1.0) as f32);
        Self::Yarn { factor, beta_fast, beta_slow, original_context, truncate, attention_factor }
    }
}

/// Which of a rope's sets of frequencies a sequence takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Regime {
    #[default]
    Usual,
    /// LongRope's long factors.
    Long,
    /// Dynamic: as for a sequence of this many tokens.
    Grown(usize),
}

impl RopeSpec {
    /// `dimensions` is even, and lists of factors have half as many entries.
    pub fn new(layout: RopeLayout, dimensions: usize, theta: f64, scaling: RopeScaling) -> Self {
        let attention_factor = match scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor
            }
            _ => 1.0,
        };
        let inverse_frequencies = scaling.frequencies(dimensions, theta);
        Self { layout, theta, scaling, inverse_frequencies, attention_factor }
    }

    pub fn dimensions(&self) -> usize {
        2 * self.inverse_frequencies.len()
    }

    /// What a sequence of `length` tokens takes.
    pub fn regime(&self, length: usize) -> Regime {
        match self.scaling {
            RopeScaling::LongRope { original_context, .. } if length > original_context => Regime::Long,
            RopeScaling::Dynamic { from, .. } if length > from => Regime::Grown(length),
            _ => Regime::Usual,
        }
    }

    /// The least length that takes the same frequencies; 0 for the usual ones.
    pub fn stretch(&self, length: usize) -> usize {
        match (self.regime(length), &self.scaling) {
            (Regime::Usual, _) => 0,
            (Regime::Long, RopeScaling::LongRope { original_context, .. }) => original_context + 1,
            (Regime::Long | Regime::Grown(_), _) => length,
        }
    }

    /// The frequencies of another regime than the usual one.
    pub fn frequencies_in(&self, regime: Regime) -> Vec<f32> {
        let dimensions = self.dimensions();
        match (&self.scaling, regime) {
            (RopeScaling::LongRope { long, .. }, Regime::Long) => divided(dimensions, self.theta, long),
            (RopeScaling::Dynamic { factor, from }, Regime::Grown(length)) => {
                let growth = factor * length as f32 / *from as f32 - (factor - 1.0);
                let exponent = dimensions as f64 / (dimensions as f64 - 2.0);
                let base = self.theta as f32 * f64::from(growth).powf(exponent) as f32;
                plain(dimensions, f64::from(base)).map(|power| 1.0 / power).collect()
            }
            _ => self.inverse_frequencies.clone(),
        }
    }
}

/// `theta` to the power of each pair's exponent. The power in f64, rounded once: what a correctly rounded f32 `pow`
/// gives.
fn plain(dimensions: usize, theta: f64) -> impl Iterator<Item = f32> {
    let theta = f64::from(theta as f32);
    (0..dimensions).step_by(2).map(move |i| theta.powf(f64::from(i as f32 / dimensions as f32)) as f32)
}

fn divided(dimensions: usize, theta: f64, factors: &[f32]) -> Vec<f32> {
    plain(dimensions, theta).zip(factors).map(|(power, factor)| 1.0 / (factor * power)).collect()
}

impl RopeScaling {
    fn frequencies(&self, dimensions: usize, theta: f64) -> Vec<f32> {
        match self {
            Self::LongRope { short: factors, .. } => return divided(dimensions, theta, factors),
            Self::Factors(factors) => {
                return plain(dimensions, theta)
                    .zip(factors)
                    .map(|(power, factor)| 1.0 / power / factor)
                    .collect();
            }
            Self::Yarn { factor, beta_fast, beta_slow, original_context, truncate, .. } => {
                let range = Turns { dimensions, theta, context: *original_context, truncate: *truncate };
                return range.blend(*factor as f32, *beta_fast, *beta_slow);
            }
            _ => {}
        }
        plain(dimensions, theta).map(|power| self.stretch(1.0 / power)).collect()
    }

    fn stretch(&self, frequency: f32) -> f32 {
        match self {
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wavelength = 2.0 * PI / frequency;
                if wavelength > original_context / low_freq_factor {
                    frequency / factor
                } else if wavelength < original_context / high_freq_factor {
                    frequency
                } else {
                    let smooth = (original_context / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
            _ => frequency,
        }
    }
}

/// How often each pair turns within the context, for YaRN (Peng et al., 2023).
struct Turns {
    dimensions: usize,
    theta: f64,
    context: f64,
    truncate: bool,
}

impl Turns {
    /// The pair (not a whole number) that turns so often.
    fn pair(&self, turns: f64) -> f64 {
        let dimensions = self.dimensions as f64;
        dimensions * (self.context / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
    }

    fn blend(&self, factor: f32, beta_fast: f64, beta_slow: f64) -> Vec<f32> {
        let (mut low, mut high) = (self.pair(beta_fast), self.pair(beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let low = low.max(0.0);
        let mut high = high.min(self.dimensions as f64 - 1.0);
        if (high - low).abs() < f64::EPSILON {
            high += 0.001;
        }
        let (low, width) = (low as f32, (high - low) as f32);
        plain(self.dimensions, self.theta)
            .enumerate()
            .map(|(pair, power)| {
                let kept = 1.0 - ((pair as f32 - low) / width).clamp(0.0, 1.0);
                1.0 / (factor * power) * (1.0 - kept) + 1.0 / power * kept
            })
            .collect()
    }
}

/// YaRN's recommended factor for cos and sin.
pub(crate) fn yarn_magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// LongRoPE's.
pub(crate) fn long_magnitude(factor: f64, original_context: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_context.ln()).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(dimensions: usize, theta: f64, scaling: RopeScaling) -> Vec<f32> {
        RopeSpec::new(RopeLayout::Half, dimensions, theta, scaling).inverse_frequencies
    }

    fn close(actual: &[f32], expected: &[f32]) {
        assert_eq!(actual.len(), expected.len());
        for (a, e) in actual.iter().zip(expected) {
            assert!((a - e).abs() <= e.abs() * 2e-7, "{a} is not {e}");
        }
    }

    #[test]
    fn default_and_linear() {
        close(&frequencies(8, 10_000.0, RopeScaling::None), &[1.0, 0.1, 0.01, 0.001]);
        let halved = frequencies(8, 10_000.0, RopeScaling::Linear { factor: 2.0 });
        close(&halved, &[0.5, 0.05, 0.005, 0.0005]);
        let divided = frequencies(8, 10_000.0, RopeScaling::Factors(vec![1.0, 2.0, 4.0, 8.0]));
        close(&divided, &[1.0, 0.05, 0.0025, 0.000_125]);
    }

    /// The values of transformers' `_compute_llama3_parameters` for the llama3-rope fixture.
    #[test]
    fn llama3_keeps_short_waves_blends_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 64.0,
        };
        let frequencies = frequencies(16, 10_000.0, scaling);
        assert!((frequencies[0] - 1.0).abs() < 1e-7, "wavelength 6.3 < 16 stays");
        let second = 10_000_f32.powf(-1.0 / 8.0);
        let smooth = (64.0 * second / (2.0 * PI) - 1.0) / 3.0;
        close(
            &frequencies[1..2],
            &[if smooth > 1.0 { second } else { (1.0 - smooth) * second / 8.0 + smooth * second }],
        );
        close(&frequencies[7..], &[10_000_f32.powf(-7.0 / 8.0) / 8.0]);
    }

    #[test]
    fn regimes_follow_the_length() {
        let long = RopeScaling::LongRope {
            short: vec![1.0, 1.0],
            long: vec![2.0, 4.0],
            original_context: 16,
            attention_factor: 1.5,
        };
        let rope = RopeSpec::new(RopeLayout::Half, 4, 10_000.0, long);
        assert_eq!((rope.regime(16), rope.regime(17)), (Regime::Usual, Regime::Long));
        assert_eq!([16, 17, 90].map(|length| rope.stretch(length)), [0, 17, 17]);
        close(&rope.inverse_frequencies, &[1.0, 0.01]);
        close(&rope.frequencies_in(Regime::Long), &[0.5, 0.0025]);
        let dynamic = RopeScaling::Dynamic { factor: 2.0, from: 16 };
        let rope = RopeSpec::new(RopeLayout::Half, 4, 10_000.0, dynamic);
        assert_eq!((rope.regime(16), rope.regime(20)), (Regime::Usual, Regime::Grown(20)));
        assert_eq!([16, 17, 20].map(|length| rope.stretch(length)), [0, 17, 20]);
        let base = 10_000.0 * 1.5_f32.powi(2);
        close(&rope.frequencies_in(Regime::Grown(20)), &[1.0, base.powf(-0.5)]);
    }
}
