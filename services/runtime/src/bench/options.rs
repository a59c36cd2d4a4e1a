//! The options of a benchmark.

use std::path::PathBuf;

use millm_kit::settings::{DeviceChoice, KernelChoice};
use millm_model::synthetic::SHAPES;

/// The measurements to make.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// The model.
    pub model: ModelSource,
    /// The device to run the model on.
    pub device: DeviceChoice,
    /// Compute threads; `None` is one for each physical core.
    pub threads: Option<usize>,
    /// The CPU kernels to run the model with.
    pub kernels: KernelChoice,
    /// Parallel streams.
    pub streams: usize,
    /// Repetitions; medians are reported.
    pub rounds: usize,
    /// The folder of llama.cpp's programs, to compare with.
    pub llama_cpp: Option<PathBuf>,
}

/// The source of the model.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// A folder or a GGUF file.
    Local(PathBuf),
    /// A model with random weights.
    Synthetic {
        /// One of [`shapes`].
        shape: String,
        /// `Q2`, `Q4`, `Q8` or `FP16`.
        quantization: String,
        /// The folder where the file is kept for the next time.
        folder: PathBuf,
    },
}

/// Returns the names of the shapes of synthetic models.
pub fn shapes() -> Vec<&'static str> {
    SHAPES.iter().map(|shape| shape.name).collect()
}
