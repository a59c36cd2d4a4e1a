//! Models on paper and on disk: dimensions, family, tensors under canonical names, sizes, and quantization. The files
//! of a model's tokenizer and chat template are passed on as they are: `millm-sandbox` runs them.
//!
//! Every file is treated as hostile: its content is validated before anything is allocated from it or mapped into a
//! tensor. The crate knows no protobuf, HTTP, SQL or async; the Downloader and the Runtime call it from blocking
//! threads.
//!
//! Modules, from the lowest layer up:
//!
//! | module | holds |
//! |---|---|
//! | [`arch`] | the families of models as data, and [`ModelSpec`] |
//! | `formats` | readers of safetensors and GGUF, the GGUF writer, file mappings |
//! | `config` | config.json and GGUF metadata into a [`ModelSpec`] |
//! | [`hooks`] | hook points: names, the points that each model has, and a model's outline |
//! | [`checkpoint`] | a model on disk, opened and validated |
//! | [`quantize`] | a checkpoint into a GGUF file |
//! | [`memory`] | bytes on disk and in memory |
//! | [`synthetic`] | models made from a seed, for benches |

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

pub mod arch;
pub mod checkpoint;
mod config;
mod error;
mod formats;
pub mod hooks;
pub mod memory;
mod model_path;
pub mod pre_tokenizers;
pub mod quantize;
pub mod synthetic;
mod tensor;

pub use arch::{Family, ModelSpec, RopeLayout, RopeSpec};
pub use checkpoint::{Checkpoint, ModelFile, TokenizerFiles};
pub use config::{GenerationDefaults, RopeFactors, requires_custom_code};
pub use error::{Error, Fault, PICKLED_WEIGHTS, Result};
pub use formats::header_prefix::HeaderPrefix;
pub use formats::json::parse_object;
pub use formats::{gguf, safetensors};
pub use hooks::{Hook, HookName, HookPoint, UnknownHook};
pub use model_path::{PICKLE_EXTENSIONS, validate_local_path};
pub use tensor::{Tensor, TensorData, TensorInfo, TensorType};
