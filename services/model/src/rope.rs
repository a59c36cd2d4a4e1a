//! Rotary embedding scalings resolved into one inverse frequency per rotated pair.
//!
//! The arithmetic is f32 as in transformers' `modeling_rope_utils.py`, so that angles at far positions come out
//! alike: one unit in the last place of a frequency is 10⁻³ rad at position 10⁵.

use std::f32::consts::PI;

/// How frequencies are stretched for contexts longer than the pretraining's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RopeScaling {
    None,
    /// Positions divided by `factor`.
    Linear {
        factor: f32,
    },
    /// Long waves divided by `factor`, short ones kept, those between blended (Llama 3.1).
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: f32,
    },
}

/// `dimensions / 2` angles per position. `dimensions` is even.
pub(crate) fn inverse_frequencies(dimensions: usize, theta: f64, scaling: RopeScaling) -> Vec<f32> {
    let theta = f64::from(theta as f32);
    (0..dimensions)
        .step_by(2)
        .map(|i| {
            let exponent = i as f32 / dimensions as f32;
            // The power in f64, rounded once: what a correctly rounded f32 `pow` gives.
            let frequency = 1.0 / (theta.powf(f64::from(exponent)) as f32);
            scaling.apply(frequency)
        })
        .collect()
}

impl RopeScaling {
    fn apply(self, frequency: f32) -> f32 {
        match self {
            Self::None => frequency,
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: &[f32], expected: &[f32]) {
        assert_eq!(actual.len(), expected.len());
        for (a, e) in actual.iter().zip(expected) {
            assert!((a - e).abs() <= e.abs() * 2e-7, "{a} is not {e}");
        }
    }

    #[test]
    fn default_and_linear() {
        let plain = inverse_frequencies(8, 10_000.0, RopeScaling::None);
        close(&plain, &[1.0, 0.1, 0.01, 0.001]);
        let halved = inverse_frequencies(8, 10_000.0, RopeScaling::Linear { factor: 2.0 });
        close(&halved, &[0.5, 0.05, 0.005, 0.0005]);
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
        let frequencies = inverse_frequencies(16, 10_000.0, scaling);
        assert!((frequencies[0] - 1.0).abs() < 1e-7, "wavelength 6.3 < 16 stays");
        let second = 10_000_f32.powf(-1.0 / 8.0);
        let smooth = (64.0 * second / (2.0 * PI) - 1.0) / 3.0;
        close(
            &frequencies[1..2],
            &[if smooth > 1.0 { second } else { (1.0 - smooth) * second / 8.0 + smooth * second }],
        );
        close(&frequencies[7..], &[10_000_f32.powf(-7.0 / 8.0) / 8.0]);
    }
}
