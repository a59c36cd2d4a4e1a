//! The names of devices. [`crate::candle`] opens them.

/// The device that a model runs on, written `cpu` or `cuda:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor, with the engine's own kernels.
    #[default]
    Cpu,
    /// A GPU, by CUDA's index, which `CUDA_VISIBLE_DEVICES` changes.
    Cuda(usize),
}

impl std::fmt::Display for Device {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => out.write_str("cpu"),
            Self::Cuda(index) => write!(out, "cuda:{index}"),
        }
    }
}
