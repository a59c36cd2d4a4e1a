//! GGUF metadata into a [`ModelSpec`](crate::ModelSpec), as llama.cpp interprets it.

mod keys;
mod read;
mod rope;
mod rope_factors;
mod terminators;

pub(crate) use keys::norm_key;
pub use rope_factors::RopeFactors;
