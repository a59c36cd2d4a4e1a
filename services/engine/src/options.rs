//! How an engine is set up, and what memory that takes.

use millm_model::{ModelSpec, memory};

use crate::cache::{KvCache, KvType};
use crate::decoder::Buffers;
use crate::error::{Error, Result};
use crate::pages::PAGE;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Tokens of prompt and answer of one request; `None` (or more than that) is what the model was made for.
    pub context_length: Option<usize>,
    /// Requests that run at the same time.
    pub slots: usize,
    /// Prompt tokens in one forward pass at most: larger reads prompts faster, smaller keeps running answers smoother.
    pub prefill_chunk: usize,
    /// Requests that may wait beyond those that run.
    pub queue_capacity: usize,
    /// Compute threads; `None` is one for each physical core.
    pub threads: Option<usize>,
    /// Element type of the KV cache.
    pub kv_type: KvType,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            context_length: None,
            slots: 8,
            prefill_chunk: memory::PREFILL_CHUNK,
            queue_capacity: 64,
            threads: None,
            kv_type: KvType::default(),
        }
    }
}

/// Memory beside the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Reserved at load, taken from the system page by page as sequences grow.
    pub kv_bytes: u64,
    /// Activations and logits of the largest batch.
    pub activation_bytes: u64,
}

impl EngineOptions {
    pub fn context_length(&self, spec: &ModelSpec) -> usize {
        self.context_length.unwrap_or(usize::MAX).min(spec.context_length)
    }

    /// What an engine with these options takes for this model beside the weights.
    pub fn memory(&self, spec: &ModelSpec) -> Memory {
        Memory {
            kv_bytes: KvCache::bytes(spec, self.kv_type, self.pages(spec)),
            activation_bytes: Buffers::bytes(spec, self.batch_rows(), self.slots),
        }
    }

    pub(crate) fn check(&self, spec: &ModelSpec) -> Result<()> {
        let numbers = [
            ("context_length", self.context_length(spec)),
            ("slots", self.slots),
            ("prefill_chunk", self.prefill_chunk),
            ("threads", self.threads.unwrap_or(1)),
        ];
        match numbers.into_iter().find(|(_, value)| *value == 0) {
            Some((option, value)) => Err(Error::Option { option, value, why: "must be at least 1" }),
            None => Ok(()),
        }
    }

    /// Each slot can hold a whole context.
    pub(crate) fn pages(&self, spec: &ModelSpec) -> usize {
        self.slots.saturating_mul(self.context_length(spec).div_ceil(PAGE))
    }

    /// Rows of the largest batch: a full chunk beside a decode row for each slot.
    pub(crate) fn batch_rows(&self) -> usize {
        self.prefill_chunk.saturating_add(self.slots)
    }

    /// Compute threads as they will be.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(default_threads)
    }
}

/// One for each physical core that this process may use.
pub(crate) fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    candle_core::utils::get_num_threads().clamp(1, allowed)
}
