//! The quantizations that can be requested: the contract's numbers on one side, the schemes of `millm-model` on the
//! other.

use millm_kit::ServiceError;
use millm_model::quantize::Scheme;
use millm_proto::catalog::v1::Quantization;

/// All quantizations that can be requested, smallest first.
pub(crate) const ALL: [Quantization; 5] =
    [Quantization::Q2, Quantization::Q4, Quantization::Q8, Quantization::Fp16, Quantization::Native];

/// Returns the scheme of a quantization; `None` for a model that is kept as published.
pub(crate) const fn scheme(quantization: Quantization) -> Option<Scheme> {
    match quantization {
        Quantization::Q2 => Some(Scheme::Q2),
        Quantization::Q4 => Some(Scheme::Q4),
        Quantization::Q8 => Some(Scheme::Q8),
        Quantization::Fp16 => Some(Scheme::Fp16),
        Quantization::Unspecified | Quantization::Native => None,
    }
}

/// Returns the quantization of a scheme.
pub(crate) const fn from_scheme(scheme: Scheme) -> Quantization {
    match scheme {
        Scheme::Q2 => Quantization::Q2,
        Scheme::Q4 => Quantization::Q4,
        Scheme::Q8 => Quantization::Q8,
        Scheme::Fp16 | Scheme::Fp32 => Quantization::Fp16,
    }
}

/// Parses a request's number; unset means `default`.
///
/// # Errors
///
/// INVALID_ARGUMENT.
pub(crate) fn parse_requested(number: i32, default: Quantization) -> Result<Quantization, ServiceError> {
    match Quantization::try_from(number) {
        Ok(Quantization::Unspecified) => Ok(default),
        Ok(quantization) => Ok(quantization),
        Err(_) => Err(ServiceError::invalid_argument("quantization", "must be Q2, Q4, Q8, FP16 or NATIVE")),
    }
}
