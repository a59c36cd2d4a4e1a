//! The quantizations people ask for, between the contract's numbers and the model crate's
//! schemes.

use millm_kit::ServiceError;
use millm_model::quantize::Scheme;
use millm_proto::catalog::v1::Quantization;

/// All that can be asked for, smallest first.
pub const ALL: [Quantization; 5] =
    [Quantization::Q2, Quantization::Q4, Quantization::Q8, Quantization::Fp16, Quantization::Native];

/// `None` for what is kept as published.
pub const fn scheme(quantization: Quantization) -> Option<Scheme> {
    match quantization {
        Quantization::Q2 => Some(Scheme::Q2),
        Quantization::Q4 => Some(Scheme::Q4),
        Quantization::Q8 => Some(Scheme::Q8),
        Quantization::Fp16 => Some(Scheme::Fp16),
        Quantization::Unspecified | Quantization::Native => None,
    }
}

pub const fn of_scheme(scheme: Scheme) -> Quantization {
    match scheme {
        Scheme::Q2 => Quantization::Q2,
        Scheme::Q4 => Quantization::Q4,
        Scheme::Q8 => Quantization::Q8,
        // Nobody asks for FP32.
        Scheme::Fp16 | Scheme::Fp32 => Quantization::Fp16,
    }
}

/// Reads a request's number; unset means `default`.
pub fn asked(number: i32, default: Quantization) -> Result<Quantization, ServiceError> {
    match Quantization::try_from(number) {
        Ok(Quantization::Unspecified) => Ok(default),
        Ok(quantization) => Ok(quantization),
        Err(_) => Err(ServiceError::invalid_argument("quantization", "must be Q2, Q4, Q8, FP16 or NATIVE")),
    }
}
