//! The configuration of a model, from either kind of file, into a [`ModelSpec`](crate::ModelSpec).
//!
//! config.json is read as the config classes of transformers read it, in the style of most published models
//! (`rope_theta`, `rope_scaling`) and in the newer one (`rope_parameters`). A key that changes the result is read, or
//! refused by name; keys that only matter to training are ignored. `gguf` reads the same from a GGUF header.

mod config_json;
mod dimensions;
mod experts;
mod fields;
mod generation;
pub(crate) mod gguf;
pub(crate) mod limits;
mod refuse;
mod rope;
mod window;
mod wrapper;

#[cfg(test)]
mod tests;

pub use config_json::requires_custom_code;
pub use generation::GenerationDefaults;
pub use gguf::RopeFactors;
