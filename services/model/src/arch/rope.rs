//! Rotary embedding: every kind of scaling, resolved into one inverse frequency for each rotated pair.
//!
//! The arithmetic is f32 as in transformers' `modeling_rope_utils.py`, so that angles at far positions come out
//! equal: one unit in the last place of a frequency is 10⁻³ rad at position 10⁵.

use std::f32::consts::PI;

use super::kinds::{RopeLayout, Yarn};

/// Rotary position embedding with all scaling resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// The dimensions that form a pair.
    pub layout: RopeLayout,
    /// The base of the frequencies.
    pub theta: f64,
    /// The scaling of frequencies for long contexts.
    pub scaling: RopeScaling,
    /// Radians per position for each rotated pair: `[rotated dimensions / 2]`. The dimensions of a head beyond
    /// `2 * inverse_frequencies.len()` are not rotated.
    pub inverse_frequencies: Vec<f32>,
    /// Multiplies cos and sin (YaRN, LongRoPE); 1 otherwise.
    pub attention_factor: f32,
}

/// The scaling of frequencies for contexts longer than the pretraining's, under transformers' names.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Frequencies are as in pretraining.
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        /// The factor by which the context grows.
        factor: f32,
    },
    /// The base grows with sequences longer than `from` tokens (dynamic NTK).
    Dynamic {
        /// The rate at which the base grows.
        factor: f32,
        /// Tokens up to which frequencies are as in pretraining.
        from: usize,
    },
    /// Long wavelengths are divided by `factor`, short ones kept, and those between are blended (Llama 3.1).
    Llama3 {
        /// The factor by which the context grows.
        factor: f32,
        /// Wavelengths over `original_context / low_freq_factor` are long.
        low_freq_factor: f32,
        /// Wavelengths under `original_context / high_freq_factor` are short.
        high_freq_factor: f32,
        /// Tokens of the pretraining's context.
        original_context: f32,
    },
    /// Pairs are divided by `factor` or kept by how often they rotate within the original context (Peng et al., 2023).
    Yarn {
        /// The factor by which the context grows.
        factor: f64,
        /// Pairs that rotate more often keep their frequency.
        beta_fast: f64,
        /// Pairs that rotate less often are divided by `factor`.
        beta_slow: f64,
        /// Tokens of the pretraining's context.
        original_context: f64,
        /// True if the bounds between the two are rounded to whole pairs.
        truncate: bool,
        /// Multiplies cos and sin.
        attention_factor: f32,
    },
    /// One list of divisors for sequences within the original context, and another for longer ones (Ding et al., 2024).
    LongRope {
        /// The divisor of each pair within the original context: `[rotated dimensions / 2]`.
        short: Vec<f32>,
        /// The divisor of each pair beyond the original context: `[rotated dimensions / 2]`.
        long: Vec<f32>,
        /// Tokens of the pretraining's context.
        original_context: usize,
        /// Multiplies cos and sin.
        attention_factor: f32,
    },
    /// A divisor for each pair (GGUF's `rope_freqs.weight`): `[rotated dimensions / 2]`.
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

/// The set of frequencies that a sequence is rotated by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RopeRegime {
    /// [`RopeSpec::inverse_frequencies`].
    #[default]
    Original,
    /// LongRoPE's long factors.
    Long,
    /// Dynamic rope's frequencies for a sequence of this many tokens.
    Dynamic(usize),
}

impl RopeSpec {
    /// Resolves `scaling` into frequencies. `dimensions` (those of a head that are rotated) is even, and lists of factors
    /// have half as many entries.
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

    /// Returns the number of rotated dimensions of a head.
    pub fn dimensions(&self) -> usize {
        2 * self.inverse_frequencies.len()
    }

    /// Returns the regime of a sequence of `length` tokens.
    pub fn regime(&self, length: usize) -> RopeRegime {
        match self.scaling {
            RopeScaling::LongRope { original_context, .. } if length > original_context => RopeRegime::Long,
            RopeScaling::Dynamic { from, .. } if length > from => RopeRegime::Dynamic(length),
            _ => RopeRegime::Original,
        }
    }

    /// Returns the length of the shortest sequence that is rotated by the same frequencies as one of `length` tokens; 0
    /// for the original frequencies.
    pub fn regime_start(&self, length: usize) -> usize {
        match (self.regime(length), &self.scaling) {
            (RopeRegime::Original, _) => 0,
            (RopeRegime::Long, RopeScaling::LongRope { original_context, .. }) => original_context + 1,
            (RopeRegime::Long | RopeRegime::Dynamic(_), _) => length,
        }
    }

    /// Returns the frequencies of a regime, in the form of [`Self::inverse_frequencies`].
    pub fn frequencies_in(&self, regime: RopeRegime) -> Vec<f32> {
        let dimensions = self.dimensions();
        match (&self.scaling, regime) {
            (RopeScaling::LongRope { long, .. }, RopeRegime::Long) => divided(dimensions, self.theta, long),
            (RopeScaling::Dynamic { factor, from }, RopeRegime::Dynamic(length)) => {
                let growth = factor * length as f32 / *from as f32 - (factor - 1.0);
                let exponent = dimensions as f64 / (dimensions as f64 - 2.0);
                let base = self.theta as f32 * f64::from(growth).powf(exponent) as f32;
                powers(dimensions, f64::from(base)).map(|power| 1.0 / power).collect()
            }
            _ => self.inverse_frequencies.clone(),
        }
    }
}

/// Returns `theta` to the power of each pair's exponent. The power is computed in f64 and rounded once, which gives the
/// result of a correctly rounded f32 `pow`.
fn powers(dimensions: usize, theta: f64) -> impl Iterator<Item = f32> {
    let theta = f64::from(theta as f32);
    (0..dimensions).step_by(2).map(move |i| theta.powf(f64::from(i as f32 / dimensions as f32)) as f32)
}

fn divided(dimensions: usize, theta: f64, factors: &[f32]) -> Vec<f32> {
    powers(dimensions, theta).zip(factors).map(|(power, factor)| 1.0 / (factor * power)).collect()
}

impl RopeScaling {
    fn frequencies(&self, dimensions: usize, theta: f64) -> Vec<f32> {
        match self {
            Self::LongRope { short: factors, .. } => return divided(dimensions, theta, factors),
            Self::Factors(factors) => {
                return powers(dimensions, theta)
                    .zip(factors)
                    .map(|(power, factor)| 1.0 / power / factor)
                    .collect();
            }
            Self::Yarn { factor, beta_fast, beta_slow, original_context, truncate, .. } => {
                let range = Rotations { dimensions, theta, context: *original_context, truncate: *truncate };
                return range.blend(*factor as f32, *beta_fast, *beta_slow);
            }
            _ => {}
        }
        powers(dimensions, theta).map(|power| self.scaled(1.0 / power)).collect()
    }

    fn scaled(&self, frequency: f32) -> f32 {
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

/// The number of rotations of each pair within the original context, for YaRN (Peng et al., 2023).
struct Rotations {
    dimensions: usize,
    theta: f64,
    context: f64,
    truncate: bool,
}

impl Rotations {
    /// Returns the index of the pair that rotates `rotations` times. It need not be a whole number.
    fn pair(&self, rotations: f64) -> f64 {
        let dimensions = self.dimensions as f64;
        dimensions * (self.context / (rotations * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
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
        powers(self.dimensions, self.theta)
            .enumerate()
            .map(|(pair, power)| {
                let kept = 1.0 - ((pair as f32 - low) / width).clamp(0.0, 1.0);
                1.0 / (factor * power) * (1.0 - kept) + 1.0 / power * kept
            })
            .collect()
    }
}

/// Returns YaRN's recommended factor for cos and sin.
pub(crate) fn yarn_magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// Returns LongRoPE's recommended factor for cos and sin.
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
    fn llama3_keeps_short_wavelengths_blends_and_divides_long_ones() {
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
        assert_eq!((rope.regime(16), rope.regime(17)), (RopeRegime::Original, RopeRegime::Long));
        assert_eq!([16, 17, 90].map(|length| rope.regime_start(length)), [0, 17, 17]);
        close(&rope.inverse_frequencies, &[1.0, 0.01]);
        close(&rope.frequencies_in(RopeRegime::Long), &[0.5, 0.0025]);
        let dynamic = RopeScaling::Dynamic { factor: 2.0, from: 16 };
        let rope = RopeSpec::new(RopeLayout::Half, 4, 10_000.0, dynamic);
        assert_eq!((rope.regime(16), rope.regime(20)), (RopeRegime::Original, RopeRegime::Dynamic(20)));
        assert_eq!([16, 17, 20].map(|length| rope.regime_start(length)), [0, 17, 20]);
        let base = 10_000.0 * 1.5_f32.powi(2);
        close(&rope.frequencies_in(RopeRegime::Dynamic(20)), &[1.0, base.powf(-0.5)]);
    }
}
