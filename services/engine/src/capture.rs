//! Captures: the states of given sequences at hook points, computed by the serving path, for analysis and training.
//! Callers make a [`CaptureRequest`] and receive the states through their [`CaptureSink`]. The scheduler runs captures
//! beside requests, at lower priority.

use std::ops::{Deref, DerefMut, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};

use millm_model::{Hook, HookPoint, ModelSpec, UnknownHook};

use crate::error::Error;

/// The most sequences of a capture.
pub const MAX_CAPTURE_SEQUENCES: usize = 4096;
/// The most tokens of a capture's sequences together.
pub const MAX_CAPTURE_TOKENS: usize = 1 << 20;
/// The most captures that run or wait at the same time. One of them runs.
pub const MAX_CAPTURES: usize = 8;
/// The most bytes that a sink is asked to have room for at a time. A single row, of one layer or where a device runs all
/// layers at once of all, may take more.
pub const MAX_DELIVERY_BYTES: usize = 64 << 20;

/// Sequences to compute, and the hook points whose states are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureRequest {
    /// Token ids of each sequence, at least one. All positions are computed; none come from the prefix cache.
    pub sequences: Vec<Vec<u32>>,
    /// Each wanted point. A point that is given twice is delivered once.
    pub hooks: Vec<Hook>,
}

/// The place of some rows of a delivery: consecutive positions of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRows {
    /// Index in [`CaptureRequest::sequences`].
    pub sequence: usize,
    /// Position of the first row in its sequence.
    pub position: usize,
    /// Rows of the delivery.
    pub rows: Range<usize>,
}

impl CaptureRows {
    /// Returns the position after the last row.
    pub fn end(&self) -> usize {
        self.position + self.rows.len()
    }
}

/// Receives a capture's states. The engine calls it on its own thread during a forward pass, so it must not block. Each
/// state of each position comes once. The positions of a sequence come in order.
pub trait CaptureSink: Send {
    /// Returns whether deliveries of `bytes` together may come now; see [`MAX_DELIVERY_BYTES`]. `false` holds the capture
    /// back, and decoding goes on. A sink that holds nothing must return `true` whatever the number is, or the capture
    /// never ends.
    fn has_room(&self, bytes: usize) -> bool;

    /// Receives states, `[rows, width]`, of all `rows` together.
    fn receive(&mut self, hook: Hook, rows: &[CaptureRows], width: usize, states: &[f32]);

    /// Receives attention's scores or weights of one sequence, `[rows, heads, keys]`. A key that a row does not attend
    /// to has a score of negative infinity and a weight of 0. There are keys up to the last row's position.
    fn receive_attention(
        &mut self,
        hook: Hook,
        rows: &CaptureRows,
        heads: usize,
        keys: usize,
        values: &[f32],
    );

    /// The last call: everything has been received, or an error says why not.
    fn end(self: Box<Self>, result: Result<(), CaptureError>);

    /// Returns whether the receiver is gone. The engine asks at each step, and then cancels the capture.
    fn closed(&self) -> bool;
}

/// Why a capture ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// The receiver is gone, or the engine stopped.
    #[error("the capture was cancelled")]
    Cancelled,
    /// There was too little memory for a pass.
    #[error("out of memory")]
    OutOfMemory,
    /// The engine or the sink failed.
    #[error("the engine failed: {0}")]
    Failed(String),
}

impl From<Error> for CaptureError {
    fn from(error: Error) -> Self {
        match error {
            Error::OutOfMemory { .. } | Error::DeviceMemory(_) => Self::OutOfMemory,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Why a capture was refused. Its sink receives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCapture {
    /// A list is empty.
    #[error("{field}: the list is empty")]
    Empty {
        /// The list's name.
        field: &'static str,
    },
    /// A list is too long.
    #[error("{field}: there are {found}, and the limit is {limit}")]
    TooMany {
        /// The name of what is counted.
        field: &'static str,
        /// The number given.
        found: usize,
        /// The most that are allowed.
        limit: usize,
    },
    /// A sequence has no token.
    #[error("sequences[{index}]: it has no token")]
    EmptySequence {
        /// Index of the sequence.
        index: usize,
    },
    /// A sequence does not fit the context.
    #[error("sequences[{index}]: it has {tokens} tokens; the context holds {context}")]
    SequenceTooLong {
        /// Index of the sequence.
        index: usize,
        /// Tokens of the sequence.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("sequences[{index}]: token {id} is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// Index of the sequence.
        index: usize,
        /// The token's id.
        id: u32,
        /// The number of tokens in the vocabulary.
        vocabulary: usize,
    },
    /// The model does not have a hook point.
    #[error("hooks: {0}")]
    Hook(#[from] UnknownHook),
}

impl CaptureRequest {
    /// Checks everything that the scheduler relies on.
    pub(crate) fn check(&self, spec: &ModelSpec, context: usize) -> Result<(), InvalidCapture> {
        let tokens = self.sequences.iter().map(Vec::len).fold(0, usize::saturating_add);
        let hooks = HookPoint::ALL.len().saturating_mul(spec.layers.saturating_add(1));
        let counts = [
            ("sequences", self.sequences.len(), MAX_CAPTURE_SEQUENCES),
            ("tokens of all sequences", tokens, MAX_CAPTURE_TOKENS),
            ("hooks", self.hooks.len(), hooks),
        ];
        for (field, found, limit) in counts {
            if found > limit {
                return Err(InvalidCapture::TooMany { field, found, limit });
            }
        }
        for (field, is_empty) in [("sequences", self.sequences.is_empty()), ("hooks", self.hooks.is_empty())]
        {
            if is_empty {
                return Err(InvalidCapture::Empty { field });
            }
        }
        let vocabulary = spec.vocabulary_size;
        for (index, sequence) in self.sequences.iter().enumerate() {
            let tokens = sequence.len();
            if tokens == 0 {
                return Err(InvalidCapture::EmptySequence { index });
            }
            if tokens > context {
                return Err(InvalidCapture::SequenceTooLong { index, tokens, context });
            }
            if let Some(id) = sequence.iter().find(|id| **id as usize >= vocabulary) {
                return Err(InvalidCapture::UnknownToken { index, id: *id, vocabulary });
            }
        }
        Ok(self.hooks.iter().try_for_each(|hook| spec.require_hook(*hook))?)
    }
}

/// The sink of an accepted capture. It receives its end exactly once, at the latest when this is dropped.
pub(crate) struct CaptureOutput(Option<Box<dyn CaptureSink>>);

impl CaptureOutput {
    pub fn new(sink: Box<dyn CaptureSink>) -> Self {
        Self(Some(sink))
    }

    /// Ends the capture.
    pub fn end(mut self, result: Result<(), CaptureError>) {
        self.send(result);
    }

    /// Drops the sink of a capture that was not accepted after all. It receives nothing.
    pub fn refuse(mut self) {
        self.0 = None;
    }

    /// A panic of the sink is logged: it must not end the engine.
    fn send(&mut self, result: Result<(), CaptureError>) {
        let Some(sink) = self.0.take() else { return };
        if catch_unwind(AssertUnwindSafe(|| sink.end(result))).is_err() {
            tracing::error!("a capture's sink panicked at its end");
        }
    }
}

impl Drop for CaptureOutput {
    fn drop(&mut self) {
        self.send(Err(CaptureError::Cancelled));
    }
}

impl Deref for CaptureOutput {
    type Target = dyn CaptureSink;

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().expect("the sink is there until the end")
    }
}

impl DerefMut for CaptureOutput {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.as_deref_mut().expect("the sink is there until the end")
    }
}
