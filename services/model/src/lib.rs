//! What a model IS, on paper and on disk: its dimensions, its family, its tensors by canonical name, its
//! sizes, and how it is quantized. The files of its tokenizer and chat template are handed on unread: `millm-sandbox`
//! runs them.
//!
//! Everything here treats files as hostile: what is read is validated before anything is allocated or mapped
//! into a tensor. No protobuf, no HTTP, no SQL, no async: the Downloader and the Runtime call in from
//! blocking threads.

pub mod checkpoint;
pub mod config;
pub mod error;
mod families;
pub mod family;
pub mod gguf;
pub mod headers;
mod json;
mod local;
mod mapped;
pub mod memory;
mod names;
pub mod pre_tokenizers;
pub mod quantize;
mod rope;
pub mod safetensors;
pub mod spec;
pub mod synthetic;
pub mod tensor;
#[cfg(unix)]
mod torn;

pub use checkpoint::{Checkpoint, ModelFile, TokenizerFiles};
pub use config::{GenerationDefaults, requires_custom_code};
pub use error::{Error, Result};
pub use family::Family;
pub use local::validate_local_path;
pub use spec::{ModelSpec, RopeLayout, RopeSpec};
pub use tensor::{Tensor, TensorData, TensorInfo, TensorType};
