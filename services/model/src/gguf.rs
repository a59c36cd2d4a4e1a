//! The GGUF format (ggml/docs/gguf.md): metadata, tensor infos, then aligned data. Read here with every count
//! checked against the file before it is believed.

mod file;
mod header;
mod keys;
mod metadata;
mod rope;
mod scan;
mod spec;
mod tokens;
pub mod writer;

pub use file::GgufFile;
pub use header::{GgufHeader, StoredTensor};
pub use metadata::{Array, Metadata, Value};
pub use scan::MAX_HEADER_BYTES;
pub use spec::RopeFactors;

pub(crate) use spec::norm_key;
pub(crate) use tokens::terminators;

/// Our own files carry the published config.json under this key, so that nothing of it is lost in GGUF's terms.
pub const CONFIG_JSON_KEY: &str = "millm.config_json";
