//! The tensors of a GGUF file that hold a divisor for each rotated pair.

use crate::config::limits;
use crate::formats::gguf::GgufHeader;

/// The values of the tensors that hold a divisor for each rotated pair: `[rotated dimensions / 2]` each. `None` for
/// tensors that the file does not have.
#[derive(Debug, Clone, Default)]
pub struct RopeFactors {
    /// `rope_freqs.weight`: for sequences of any length.
    pub any: Option<Vec<f32>>,
    /// `rope_factors_short.weight`: for sequences within the original context.
    pub short: Option<Vec<f32>>,
    /// `rope_factors_long.weight`: for longer sequences.
    pub long: Option<Vec<f32>>,
}

impl RopeFactors {
    /// Stands in for the values where only the header is at hand: ones for each tensor that the file has.
    pub fn unread(header: &GgufHeader) -> Self {
        let ones = |name: &str| {
            let tensor = header.tensors.iter().find(|tensor| tensor.name == name)?;
            (tensor.shape.len() == 1 && tensor.shape[0] <= limits::HEAD_DIM)
                .then(|| vec![1.0; tensor.shape[0]])
        };
        Self {
            any: ones("rope_freqs.weight"),
            short: ones("rope_factors_short.weight"),
            long: ones("rope_factors_long.weight"),
        }
    }
}
