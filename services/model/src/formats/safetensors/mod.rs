//! The safetensors format: headers that are validated before any byte of data is read, and the index of a model in
//! several files.

mod bounded;
mod entries;
mod header;
mod index;
mod tensor;

pub use bounded::{MAX_MODEL_TENSORS, MAX_TENSORS};
pub use header::{MAX_HEADER_BYTES, SafetensorsHeader};
pub use index::ShardIndex;
pub use tensor::{Dtype, SafetensorsTensor};
