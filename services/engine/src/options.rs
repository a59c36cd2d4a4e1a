//! How an engine is set up, and what memory that takes.

use millm_model::{ModelSpec, memory};

use crate::activations::Buffers;
use crate::cache::{KvCache, KvType};
use crate::device::{self, Device};
use crate::error::{Error, Result};
use crate::pages::PAGE;
use crate::plan::Budget;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Tokens of prompt and answer of one request; `None` (or more than that) is what the model was made for.
    pub context_length: Option<usize>,
    /// Requests that run at the same time.
    pub slots: usize,
    /// Prompt tokens in one forward pass at most: larger reads prompts faster, smaller keeps running answers smoother.
    pub prefill_chunk: usize,
    /// The same beside running answers: who comes next waits until they are read.
    pub prefill_beside_answers: usize,
    /// Layers of a pass over prompts that are run between two steps of running answers; `None` is as many as take
    /// somewhat less than a step, so that an answer waits for its next token about twice as long as without the prompt.
    /// One layer at least. Devices run all at once.
    pub layers_between_steps: Option<usize>,
    /// Tokens that the KV cache holds for all requests together; `None` is a whole context for each slot.
    pub kv_tokens: Option<usize>,
    /// Requests that may wait beyond those that run.
    pub queue_capacity: usize,
    pub device: Device,
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
            prefill_beside_answers: 64,
            layers_between_steps: None,
            kv_tokens: None,
            queue_capacity: 64,
            device: Device::Cpu,
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

/// What the scheduler keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub slots: usize,
    pub context_length: usize,
    pub prefill: Budget,
    pub layers_between_steps: Option<usize>,
}

impl EngineOptions {
    /// What one request may have: never more than the KV cache holds, so whatever is taken can also be finished.
    pub fn context_length(&self, spec: &ModelSpec) -> usize {
        let asked = self.context_length.unwrap_or(usize::MAX).min(spec.context_length);
        self.kv_tokens.map_or(asked, |tokens| asked.min(tokens / PAGE * PAGE))
    }

    /// What an engine with these options takes for this model beside the weights.
    pub fn memory(&self, spec: &ModelSpec) -> Memory {
        Memory {
            kv_bytes: KvCache::bytes(spec, self.kv_type, self.pages(spec)),
            activation_bytes: Buffers::bytes(spec, self.batch_rows(), self.slots),
        }
    }

    /// What attention works in beside the activations where a device's is run.
    pub fn attention_bytes(&self, spec: &ModelSpec) -> u64 {
        let rows = self.prefill_chunk.max(self.slots);
        device::attention_bytes(spec, (rows, self.slots), self.context_length(spec))
    }

    pub(crate) fn check(&self, spec: &ModelSpec) -> Result<()> {
        let numbers = [
            ("context_length", self.context_length(spec)),
            ("slots", self.slots),
            ("prefill_chunk", self.prefill_chunk),
            ("prefill_beside_answers", self.prefill_beside_answers),
            ("layers_between_steps", self.layers_between_steps.unwrap_or(1)),
            ("threads", self.threads.unwrap_or(1)),
        ];
        match numbers.into_iter().find(|(_, value)| *value == 0) {
            Some((option, value)) => Err(Error::Option { option, value, why: "must be at least 1" }),
            None => Ok(()),
        }
    }

    /// Each slot can hold a whole context, unless that is more than there may be.
    pub(crate) fn pages(&self, spec: &ModelSpec) -> usize {
        let whole = self.slots.saturating_mul(self.context_length(spec).div_ceil(PAGE));
        self.kv_tokens.map_or(whole, |tokens| whole.min(tokens / PAGE))
    }

    pub(crate) fn limits(&self, spec: &ModelSpec) -> Limits {
        let prefill = Budget { alone: self.prefill_chunk, beside_answers: self.prefill_beside_answers };
        let (context_length, layers_between_steps) = (self.context_length(spec), self.layers_between());
        Limits { slots: self.slots, context_length, prefill, layers_between_steps }
    }

    /// A device's passes over prompts are short beside its steps.
    fn layers_between(&self) -> Option<usize> {
        match self.device {
            Device::Cpu => self.layers_between_steps,
            Device::Cuda(_) => Some(usize::MAX),
        }
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
