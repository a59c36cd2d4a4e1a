//! The names of the quantizations, as people write them: `Q4`, `FP16`.

use millm_proto::catalog::v1::Quantization;

use crate::ServiceError;

/// Returns the name, `Q4`; an empty text when unspecified.
pub const fn name(quantization: Quantization) -> &'static str {
    match quantization {
        Quantization::Unspecified => "",
        Quantization::Q2 => "Q2",
        Quantization::Q4 => "Q4",
        Quantization::Q8 => "Q8",
        Quantization::Fp16 => "FP16",
        Quantization::Native => "NATIVE",
    }
}

/// Reads what [`name`] writes. Case does not matter.
///
/// # Errors
///
/// INVALID_ARGUMENT of the field `quantization` for any other text.
pub fn parse(text: &str) -> Result<Quantization, ServiceError> {
    use Quantization::{Fp16, Native, Q2, Q4, Q8};
    [Q2, Q4, Q8, Fp16, Native].into_iter().find(|q| name(*q).eq_ignore_ascii_case(text)).ok_or_else(|| {
        ServiceError::invalid_argument("quantization", "must be one of Q2, Q4, Q8, FP16, NATIVE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantizations_read_back() {
        for q in
            [Quantization::Q2, Quantization::Q4, Quantization::Q8, Quantization::Fp16, Quantization::Native]
        {
            assert_eq!(parse(name(q)).unwrap(), q);
            assert_eq!(parse(&name(q).to_lowercase()).unwrap(), q);
        }
        assert!(parse("").is_err() && parse("Q3").is_err());
    }
}
