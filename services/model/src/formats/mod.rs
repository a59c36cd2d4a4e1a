//! File formats: readers that check every length and count against the file before they use it, the GGUF writer, and
//! the mapping of files into memory. Nothing here knows what a tensor is for.

pub mod gguf;
pub(crate) mod header_prefix;
pub(crate) mod json;
pub(crate) mod mmap;
pub mod safetensors;
#[cfg(unix)]
mod sigbus_guard;
