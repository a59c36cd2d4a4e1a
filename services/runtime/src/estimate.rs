//! What a model takes in memory, from its checkpoint's headers and the engine's options.

use std::path::PathBuf;

use millm_engine::{Device, EngineOptions, device};
use millm_kit::ServiceError;
use millm_model::{
    Checkpoint, TensorInfo,
    memory::{self, MemoryEstimate as Parts, Workload},
};
use millm_proto::{catalog::v1::Model, runtime::v1::MemoryEstimate};

use crate::{failure, loader::Ground};

/// A checkpoint with the options it would run with, and what that takes.
pub struct Opened {
    pub checkpoint: Checkpoint,
    pub options: EngineOptions,
    pub context_length: u32,
    /// `available_bytes` and what follows from it are the caller's to fill ([`against`]).
    pub estimate: MemoryEstimate,
}

/// Opens the model's files and estimates. `context_length` is the server's setting unless given, and never more
/// than the model's.
pub async fn open(
    model: &Model,
    ground: &Ground,
    context_length: Option<u32>,
) -> Result<Opened, ServiceError> {
    let path = PathBuf::from(&model.storage_path);
    let options = EngineOptions {
        context_length: Some(context_length.unwrap_or(ground.context_length) as usize),
        slots: ground.slots as usize,
        kv_tokens: (ground.kv_tokens > 0).then_some(ground.kv_tokens as usize),
        queue_capacity: ground.queue as usize,
        device: ground.devices.place,
        threads: (ground.threads > 0).then_some(ground.threads as usize),
        ..EngineOptions::default()
    };
    let opened = tokio::task::spawn_blocking(move || {
        let checkpoint = Checkpoint::open(&path).map_err(failure::of_model)?;
        let context_length = options.context_length(checkpoint.spec()) as u32;
        let estimate = of(&checkpoint, &options);
        Ok(Opened { checkpoint, options, context_length, estimate })
    });
    opened.await.map_err(failure::of_panic)?
}

/// Judges an estimate by what is available.
pub fn against(mut estimate: MemoryEstimate, available_bytes: u64) -> MemoryEstimate {
    let total = estimate.total_bytes as u64;
    estimate.available_bytes = available_bytes as i64;
    estimate.fits = total <= available_bytes;
    if !estimate.fits {
        estimate.warning = ServiceError::insufficient_memory(total, available_bytes).message;
    }
    estimate
}

/// What a checkpoint takes with these options, where they say that it runs.
pub fn of(checkpoint: &Checkpoint, options: &EngineOptions) -> MemoryEstimate {
    let spec = checkpoint.spec();
    let workload = Workload {
        context_length: options.context_length(spec),
        slots: options.slots,
        kv_tokens: options.kv_tokens,
        prefill_chunk: options.prefill_chunk,
        kv_element_bytes: options.kv_type.bytes(),
    };
    let estimate = memory::estimate(spec, memory::held_bytes(checkpoint.tensors()), &workload);
    let estimate = match options.device {
        Device::Cpu => estimate,
        Device::Cuda(_) => on_gpu(estimate, checkpoint, options),
    };
    // What no machine has is as good as the most that can be said.
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

/// The GPU's part: the table of embeddings stays with the host, some types are widened, attention works on more at once,
/// and CUDA takes its own.
fn on_gpu(estimate: Parts, checkpoint: &Checkpoint, options: &EngineOptions) -> Parts {
    let spec = checkpoint.spec();
    let table =
        checkpoint.tensors().find(|tensor| tensor.name == "token_embd.weight" && !spec.tied_embeddings);
    let widened = |tensor: &TensorInfo| device::tensor_bytes(tensor).saturating_sub(tensor.bytes);
    let widened = checkpoint.tensors().map(widened).fold(0, u64::saturating_add);
    Parts {
        weights: estimate
            .weights
            .saturating_add(widened)
            .saturating_sub(table.map_or(0, |table| table.bytes)),
        activations: estimate.activations.saturating_add(options.attention_bytes(spec)),
        overhead: device::CUDA_BYTES,
        ..estimate
    }
}
