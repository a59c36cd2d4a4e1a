//! Devices: the processor, whose kernels are the engine's own, and those that candle drives.
//!
//! What runs there is written over candle's tensors for whatever [`candle_core::Device`] it is given, so tests hold it to
//! the references on every machine, and to the host's own pass; on a GPU the same code is run by candle's CUDA kernels
//! (feature `cuda`).

mod attention;
mod decoder;
mod linear;
mod mlp;
mod norm;
mod pass;
mod rows;
#[cfg(test)]
mod tests;

pub use candle_core::Device as Handle;
pub use decoder::Decoder;
pub use linear::tensor_bytes;
pub(crate) use pass::attention_bytes;
pub(crate) use rows::Rows;

use crate::error::{Error, Result, said};

/// What CUDA takes on a GPU before anybody asks for anything: its context, the kernels, cuBLAS's room to work. About;
/// versions differ.
pub const CUDA_BYTES: u64 = 512 << 20;

/// Where a model runs; written `cpu` or `cuda:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    #[default]
    Cpu,
    /// By CUDA's count, which `CUDA_VISIBLE_DEVICES` changes.
    Cuda(usize),
}

impl Device {
    /// The first GPU where this build can use one and there is one, else the processor.
    pub fn best() -> Self {
        let gpu = Self::Cuda(0);
        if gpu.open().is_ok() { gpu } else { Self::Cpu }
    }

    /// Makes sure that it is there.
    pub fn open(self) -> Result<Handle> {
        match self {
            Self::Cpu => Ok(Handle::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(Error::NoDevice {
                device: self,
                why: "this miLLM was built without the 'cuda' feature (make cuda builds it)".to_owned(),
            }),
            Self::Cuda(number) => {
                Handle::new_cuda(number).map_err(|error| Error::NoDevice { device: self, why: said(&error) })
            }
        }
    }
}

/// A GPU's identity as the driver's tools know it, however CUDA counts: 16 bytes.
#[cfg(feature = "cuda")]
pub fn uuid(gpu: &Handle) -> Result<[u8; 16]> {
    let context = gpu.as_cuda_device()?.cuda_stream().context().clone();
    let uuid = context.uuid().map_err(|error| Error::Device(error.to_string()))?;
    Ok(uuid.bytes.map(|byte| byte as u8))
}

impl std::fmt::Display for Device {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => out.write_str("cpu"),
            Self::Cuda(number) => write!(out, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod opening {
    use super::*;

    #[test]
    fn a_gpu_that_cannot_be_used_is_said_to_be_missing() {
        // More than any machine has.
        let error = Device::Cuda(4096).open().unwrap_err().to_string();
        assert!(error.starts_with("device 'cuda:4096' cannot be used: "), "{error}");
        assert_eq!(error.contains("make cuda"), !cfg!(feature = "cuda"), "{error}");
        assert!(Device::best().open().is_ok());
    }
}
