//! The forward pass on GPUs, over candle's tensors.
//!
//! The code runs on every [`candle_core::Device`]. So tests compare it with references, and with the
//! host's own pass, on every machine; on a GPU the same code runs candle's CUDA kernels (feature `cuda`).

pub(crate) mod attention;
pub(crate) mod batch_index;
pub(crate) mod decoder;
pub(crate) mod handle;
pub(crate) mod kv_store;
pub(crate) mod linear;
pub(crate) mod mlp;
pub(crate) mod norm;
pub(crate) mod observe;
#[cfg(test)]
mod tests;

pub use decoder::CandleDecoder;
#[cfg(feature = "cuda")]
pub use handle::gpu_uuid;
pub use handle::{CUDA_CONTEXT_BYTES, DeviceHandle};
pub use linear::candle_tensor_bytes;

pub(crate) use batch_index::attention_bytes;
