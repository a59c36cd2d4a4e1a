//! The GGUF format (ggml/docs/gguf.md): metadata, tensor infos, then aligned data. Every count is checked against the
//! file before it is used.

mod file;
mod header;
mod metadata;
mod scan;
pub mod writer;

pub use file::GgufFile;
pub use header::{GgufHeader, GgufTensor};
pub use metadata::{Array, Metadata, Value};
pub use scan::MAX_HEADER_BYTES;

/// The metadata key under which miLLM's own files carry the published config.json: some of it has no key in GGUF.
pub const CONFIG_JSON_KEY: &str = "millm.config_json";
