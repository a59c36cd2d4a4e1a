//! Memory estimates of models, from the checkpoint's headers and the engine's options.

use std::path::PathBuf;

use millm_engine::{CUDA_CONTEXT_BYTES, Device, EngineOptions, candle_tensor_bytes};
use millm_kit::ServiceError;
use millm_model::{
    Checkpoint, TensorInfo,
    memory::{self, MemoryEstimate as EstimateParts, Workload},
};
use millm_proto::{catalog::v1::Model, runtime::v1::MemoryEstimate};

use crate::{error, options::LoaderOptions};

/// An opened checkpoint, the options to run it with, and its memory estimate.
pub(crate) struct OpenedModel {
    pub checkpoint: Checkpoint,
    pub options: EngineOptions,
    /// Tokens of a request, prompt and output.
    pub context_length: u32,
    /// The estimate without `available_bytes` and its consequences: see [`with_available`].
    pub estimate: MemoryEstimate,
}

/// Opens the model's files and estimates its memory.
///
/// `context_length` defaults to the server's setting, and is never more than the model's.
///
/// # Errors
///
/// INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, INVALID_LOCAL_PATH or MODEL_LOAD_FAILED if the files cannot be read.
pub(crate) async fn open(
    model: &Model,
    loader: &LoaderOptions,
    context_length: Option<u32>,
) -> Result<OpenedModel, ServiceError> {
    let path = PathBuf::from(&model.storage_path);
    let options = EngineOptions {
        context_length: Some(context_length.unwrap_or(loader.context_length) as usize),
        slots: loader.slots as usize,
        kv_tokens: (loader.kv_tokens > 0).then_some(loader.kv_tokens as usize),
        queue_capacity: loader.queue_size as usize,
        device: loader.devices.device,
        threads: (loader.threads > 0).then_some(loader.threads as usize),
        kernels: loader.kernels,
        ..EngineOptions::default()
    };
    let opened = tokio::task::spawn_blocking(move || {
        let checkpoint = Checkpoint::open(&path).map_err(error::from_model)?;
        let context_length = options.context_length(checkpoint.spec()) as u32;
        let estimate = of(&checkpoint, &options);
        Ok(OpenedModel { checkpoint, options, context_length, estimate })
    });
    opened.await.map_err(error::from_panic)?
}

/// Returns the estimate with the available memory, and whether the model fits.
pub(crate) fn with_available(mut estimate: MemoryEstimate, available_bytes: u64) -> MemoryEstimate {
    let total = estimate.total_bytes as u64;
    estimate.available_bytes = available_bytes as i64;
    estimate.fits = total <= available_bytes;
    if !estimate.fits {
        estimate.warning = ServiceError::insufficient_memory(total, available_bytes).message;
    }
    estimate
}

/// Estimates the memory of a checkpoint with these options, on their device.
pub(crate) fn of(checkpoint: &Checkpoint, options: &EngineOptions) -> MemoryEstimate {
    let spec = checkpoint.spec();
    let workload = Workload {
        context_length: options.context_length(spec),
        slots: options.slots,
        kv_tokens: options.kv_tokens,
        prefill_chunk: options.prefill_chunk,
        kv_element_bytes: options.kv_type.bytes(),
    };
    let estimate = memory::estimate(spec, memory::loaded_bytes(checkpoint.tensors()), &workload);
    let estimate = match options.device {
        Device::Cpu => estimate,
        Device::Cuda(_) => on_gpu(estimate, checkpoint, options),
    };
    // No machine has more than i64::MAX bytes, so a larger estimate may as well be this much.
    let wire = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    MemoryEstimate {
        weights_bytes: wire(estimate.weights),
        kv_cache_bytes: wire(estimate.kv_cache),
        activations_bytes: wire(estimate.activations),
        overhead_bytes: wire(estimate.overhead),
        total_bytes: wire(estimate.total()),
        device: options.device.to_string(),
        ..MemoryEstimate::default()
    }
}

/// Returns the GPU's part of an estimate.
///
/// The embedding table stays on the host, some types are dequantized, attention has larger buffers, and CUDA itself
/// needs memory.
fn on_gpu(estimate: EstimateParts, checkpoint: &Checkpoint, options: &EngineOptions) -> EstimateParts {
    let spec = checkpoint.spec();
    let table =
        checkpoint.tensors().find(|tensor| tensor.name == "token_embd.weight" && !spec.tied_embeddings);
    let dequantized = |tensor: &TensorInfo| candle_tensor_bytes(tensor).saturating_sub(tensor.bytes);
    let dequantized = checkpoint.tensors().map(dequantized).fold(0, u64::saturating_add);
    EstimateParts {
        weights: estimate
            .weights
            .saturating_add(dequantized)
            .saturating_sub(table.map_or(0, |table| table.bytes)),
        activations: estimate.activations.saturating_add(options.attention_bytes(spec)),
        overhead: CUDA_CONTEXT_BYTES,
        ..estimate
    }
}
