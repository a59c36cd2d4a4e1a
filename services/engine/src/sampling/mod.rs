//! Sampling: from a row of logits to the next token, under a request's parameters and its grammar.

pub(crate) mod grammar;
pub(crate) mod params;
pub(crate) mod sampler;

pub use grammar::{AllowedTokens, Constraint, ConstraintError};
pub use params::{InvalidParameter, SamplingParams};
