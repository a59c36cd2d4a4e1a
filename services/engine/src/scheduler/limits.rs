//! The limits that the scheduler keeps.

/// The scheduler's part of [`crate::EngineOptions`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Requests that run at the same time.
    pub slots: usize,
    /// Tokens of prompt and answer of one request.
    pub context_length: usize,
    pub prefill: PrefillBudget,
    /// Layers of a prefill pass between two decode passes; `None` measures how many fit.
    pub prefill_layers_per_decode: Option<usize>,
}

impl Limits {
    /// Returns whether the prefill passes of a model of `layers` layers run all of them at once.
    pub fn runs_whole_passes(&self, layers: usize) -> bool {
        self.prefill_layers_per_decode.is_some_and(|count| count >= layers)
    }
}

/// The most prefill rows of a pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrefillBudget {
    /// While no sequence is decoding.
    pub alone: usize,
    /// While sequences are decoding.
    pub while_decoding: usize,
}
