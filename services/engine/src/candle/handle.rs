//! Opening devices.

pub use candle_core::Device as DeviceHandle;

use crate::device::Device;
use crate::error::{Error, Result, first_line};

/// Memory that CUDA takes on a GPU before any model: its context, the kernels, cuBLAS's workspace. An approximation,
/// because versions differ.
pub const CUDA_CONTEXT_BYTES: u64 = 512 << 20;

impl Device {
    /// Returns the first GPU if this build can use one and there is one, else the processor.
    pub fn best() -> Self {
        let gpu = Self::Cuda(0);
        if gpu.open().is_ok() { gpu } else { Self::Cpu }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// Returns [`Error::NoDevice`] if it does not exist or this build cannot use it.
    pub fn open(self) -> Result<DeviceHandle> {
        match self {
            Self::Cpu => Ok(DeviceHandle::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(Error::NoDevice {
                device: self,
                why: "this miLLM was built without the 'cuda' feature (make cuda builds it)".to_owned(),
            }),
            Self::Cuda(index) => DeviceHandle::new_cuda(index)
                .map_err(|error| Error::NoDevice { device: self, why: first_line(&error) }),
        }
    }
}

/// Returns a GPU's UUID, 16 bytes, as the driver's tools know it. CUDA's index may differ from theirs.
///
/// # Errors
/// Returns an error if the handle is not a GPU's, or the driver fails.
#[cfg(feature = "cuda")]
pub fn gpu_uuid(gpu: &DeviceHandle) -> Result<[u8; 16]> {
    let context = gpu.as_cuda_device()?.cuda_stream().context().clone();
    let uuid = context.uuid().map_err(|error| Error::Device(error.to_string()))?;
    Ok(uuid.bytes.map(|byte| byte as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_gpu_is_an_error_with_the_reason() {
        // More than any machine has.
        let error = Device::Cuda(4096).open().unwrap_err().to_string();
        assert!(error.starts_with("device 'cuda:4096' cannot be used: "), "{error}");
        assert_eq!(error.contains("make cuda"), !cfg!(feature = "cuda"), "{error}");
        assert!(Device::best().open().is_ok());
    }
}
