//! What a model IS, on paper and on disk: its dimensions, its family, its tensors by canonical name, its
//! tokenizer and chat template, its sizes, and how it is quantized.
//!
//! Everything here treats files as hostile: what is read is validated before anything is allocated or mapped
//! into a tensor. No protobuf, no HTTP, no SQL, no async: the Downloader and the Runtime call in from
//! blocking threads.

pub mod budget;
pub mod checkpoint;
pub mod config;
pub mod error;
mod families;
pub mod family;
pub mod gguf;
pub mod headers;
mod local;
mod mapped;
pub mod memory;
mod names;
pub mod quantize;
mod rope;
pub mod safetensors;
pub mod spec;
pub mod synthetic;
pub mod template;
pub mod tensor;
pub mod tokenizer;
#[cfg(unix)]
mod torn;

pub use checkpoint::{Checkpoint, ModelFile};
pub use config::{GenerationDefaults, requires_custom_code};
pub use error::{Error, Result};
pub use family::Family;
pub use local::validate_local_path;
pub use spec::{ModelSpec, RopeLayout, RopeSpec};
pub use template::ChatTemplate;
pub use tensor::{Tensor, TensorData, TensorInfo, TensorType};
pub use tokenizer::{TextDecoder, Tokenizer};
