//! The engine's options, and the memory that an engine with them takes.

use millm_model::{ModelSpec, memory};

use crate::candle;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::forward::batch::BatchCapacity;
use crate::forward::workspace::Workspace;
use crate::kv_cache::{BLOCK_SIZE, KvType, kv_bytes};
use crate::scheduler::core_budget::default_threads;
use crate::scheduler::limits::{Limits, PrefillBudget};
use crate::sys::cpu::KernelSet;

/// The options of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Tokens of prompt and answer of one request. `None`, or more than that, is the model's own context length.
    pub context_length: Option<usize>,
    /// Requests that run at the same time.
    pub slots: usize,
    /// The most prompt tokens in one forward pass. Larger chunks prefill faster, smaller ones keep running answers
    /// smoother.
    pub prefill_chunk: usize,
    /// The same while other requests are decoding. A new request waits until the chunk is computed.
    pub prefill_chunk_while_decoding: usize,
    /// Layers of a prefill pass that run between two decode passes, at least 1. `None` is as many as take somewhat
    /// less time than a decode pass, so that a running answer waits for its next token about twice as long as without
    /// the prefill. A GPU runs all layers at once.
    pub prefill_layers_per_decode: Option<usize>,
    /// Tokens that the KV cache holds for all requests together; `None` is a whole context for each slot.
    pub kv_tokens: Option<usize>,
    /// Requests that may wait in addition to those that run.
    pub queue_capacity: usize,
    /// The device that the model runs on.
    pub device: Device,
    /// Compute threads; `None` is one for each physical core.
    pub threads: Option<usize>,
    /// The kernels of the CPU; `None` is the fastest set of this machine.
    pub kernels: Option<KernelSet>,
    /// Element type of the KV cache.
    pub kv_type: KvType,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            context_length: None,
            slots: 8,
            prefill_chunk: memory::PREFILL_CHUNK,
            prefill_chunk_while_decoding: 64,
            prefill_layers_per_decode: None,
            kv_tokens: None,
            queue_capacity: 64,
            device: Device::Cpu,
            threads: None,
            kernels: None,
            kv_type: KvType::default(),
        }
    }
}

/// Memory of an engine in addition to the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of the KV cache. They are reserved at load, and taken from the system as sequences grow.
    pub kv_bytes: u64,
    /// Bytes of the activations and logits of the largest batch.
    pub activation_bytes: u64,
}

impl EngineOptions {
    /// Returns the tokens that one request may have: never more than the KV cache holds, so that every accepted
    /// request can finish.
    pub fn context_length(&self, spec: &ModelSpec) -> usize {
        let asked = self.context_length.unwrap_or(usize::MAX).min(spec.context_length);
        self.kv_tokens.map_or(asked, |tokens| asked.min(tokens / BLOCK_SIZE * BLOCK_SIZE))
    }

    /// Returns the memory that an engine with these options takes for a model, without its weights.
    pub fn memory(&self, spec: &ModelSpec) -> Memory {
        Memory {
            kv_bytes: kv_bytes(spec, self.kv_type, self.kv_blocks(spec)),
            activation_bytes: Workspace::bytes(spec, self.batch_capacity()),
        }
    }

    /// Returns the bytes that attention needs in addition to the activations on a GPU.
    pub fn attention_bytes(&self, spec: &ModelSpec) -> u64 {
        let rows = self.prefill_chunk.max(self.slots);
        candle::attention_bytes(spec, rows, self.slots, self.context_length(spec))
    }

    /// Returns the number of compute threads.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(default_threads)
    }

    /// Returns the kernels of the CPU.
    ///
    /// # Errors
    /// [`Error::NoKernels`] if this machine cannot execute the set asked for.
    pub(crate) fn kernels(&self) -> Result<KernelSet> {
        self.kernels.map_or_else(|| Ok(KernelSet::best()), KernelSet::require)
    }

    /// Checks that no number is 0 that must not be.
    pub(crate) fn check(&self, spec: &ModelSpec) -> Result<()> {
        let numbers = [
            ("context_length", self.context_length(spec)),
            ("slots", self.slots),
            ("prefill_chunk", self.prefill_chunk),
            ("prefill_chunk_while_decoding", self.prefill_chunk_while_decoding),
            ("prefill_layers_per_decode", self.prefill_layers_per_decode.unwrap_or(1)),
            ("threads", self.threads.unwrap_or(1)),
        ];
        match numbers.into_iter().find(|(_, value)| *value == 0) {
            Some((option, value)) => Err(Error::Option { option, value, why: "must be at least 1" }),
            None => Ok(()),
        }
    }

    /// Returns the number of KV blocks: a whole context for each slot, or fewer where `kv_tokens` limits them.
    pub(crate) fn kv_blocks(&self, spec: &ModelSpec) -> usize {
        let whole = self.slots.saturating_mul(self.context_length(spec).div_ceil(BLOCK_SIZE));
        self.kv_tokens.map_or(whole, |tokens| whole.min(tokens / BLOCK_SIZE))
    }

    /// Returns the scheduler's part of the options.
    pub(crate) fn limits(&self, spec: &ModelSpec) -> Limits {
        Limits {
            slots: self.slots,
            context_length: self.context_length(spec),
            prefill: PrefillBudget {
                alone: self.prefill_chunk,
                while_decoding: self.prefill_chunk_while_decoding,
            },
            // A GPU's prefill passes are short compared with its decode passes.
            prefill_layers_per_decode: match self.device {
                Device::Cpu => self.prefill_layers_per_decode,
                Device::Cuda(_) => Some(usize::MAX),
            },
        }
    }

    /// Returns the largest batch: a full chunk and a decode row for each slot.
    pub(crate) fn batch_capacity(&self) -> BatchCapacity {
        BatchCapacity { rows: self.prefill_chunk.saturating_add(self.slots), outputs: self.slots }
    }
}
