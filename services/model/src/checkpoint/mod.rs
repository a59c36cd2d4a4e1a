//! A model on disk, opened and validated: every tensor that its specification needs exists with the expected shape,
//! and its bytes can be borrowed from the mapped files.

mod assemble;
mod found;
mod gguf_file;
mod model;
mod naming;
mod open;
mod packed;
mod safetensors_folder;
mod sidecars;
mod slice;
#[cfg(test)]
mod tests;

pub use gguf_file::tensors_in as tensors_in_gguf;
pub use model::Checkpoint;
pub use safetensors_folder::{check_count, tensors_in as tensors_in_safetensors};
pub use sidecars::{ModelFile, TokenizerFiles};
