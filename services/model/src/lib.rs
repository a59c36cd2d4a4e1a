//! What a model IS, on paper and on disk: its dimensions, its family, its tensors by canonical name, its
//! tokenizer and chat template, its sizes, and how it is quantized.
//!
//! Everything here treats files as hostile: what is read is validated before anything is allocated or mapped
//! into a tensor. No protobuf, no HTTP, no SQL, no async: the Downloader and the Runtime call in from
//! blocking threads.

pub mod checkpoint;
pub mod error;
pub mod family;
pub mod spec;
pub mod tensor;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use family::Family;
pub use spec::{ModelSpec, RopeLayout, RopeSpec};
pub use tensor::{TensorData, TensorInfo, TensorType};
