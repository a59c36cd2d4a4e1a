//! A request to the engine, and the events that its caller receives.

use crate::capture::InvalidCapture;
use crate::sampling::{Constraint, InvalidParameter, SamplingParams};

/// One completion to generate.
#[derive(Debug, Default)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// The sampling parameters.
    pub sampling: SamplingParams,
    /// The most tokens to generate; `None` is until the context is full. 0 scores the prompt only.
    pub max_tokens: Option<usize>,
    /// Each of these tokens ends the generation.
    pub stop_token_ids: Vec<u32>,
    /// Generates on past `stop_token_ids`.
    pub ignore_eos: bool,
    /// Returns each token's log-probability, and those of this many most likely tokens.
    pub logprobs: Option<usize>,
    /// Returns the prompt tokens' log-probabilities too (with `logprobs`' number of most likely tokens, or none).
    pub prompt_logprobs: bool,
    /// Holds the answer to a grammar.
    pub constraint: Option<Box<dyn Constraint>>,
    /// The most draft tokens per step for prompt-lookup speculative decoding, at most [`MAX_DRAFT_TOKENS`]; 0 is off.
    /// The text is the same.
    pub max_draft_tokens: usize,
}

/// Upper limit of [`Request::max_draft_tokens`].
pub const MAX_DRAFT_TOKENS: usize = 16;

/// A token and its log-probability under the model's own distribution, before temperature, penalties and biases.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Index in the vocabulary.
    pub id: u32,
    /// Natural logarithm. `None` if the request does not ask for it, and for the first prompt token, which nothing
    /// predicts.
    pub logprob: Option<f32>,
    /// The most likely tokens here with their log-probabilities, most likely first.
    pub top: Vec<(u32, f32)>,
}

/// An event that a sink receives, in this order: `Started`, any number of `Token`s, `End`. A request that is
/// cancelled or fails before it started receives `End` alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt is in the KV cache.
    Started {
        /// One for each prompt token, if the request asks for them.
        prompt: Option<Vec<Token>>,
    },
    /// A generated token. A stop token is not sent: it is in `End`.
    Token(Token),
    /// The last event.
    End {
        /// The reason why the generation ended.
        reason: EndReason,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Prompt tokens that were found in the KV cache.
        cached: usize,
        /// Tokens sampled, including a stop token.
        generated: usize,
    },
}

/// The reason why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// A stop token was generated.
    Eos(u32),
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// The constraint allows no further token.
    Complete,
    /// The receiver went away, or the engine stopped.
    Cancelled,
    /// The constraint cannot be held: it is too complex, or no token can follow.
    Unsatisfiable(String),
    /// The process that computes the constraint is gone.
    ConstraintUnavailable(String),
    /// There was too little memory for the request.
    OutOfMemory,
    /// The engine failed.
    Failed(String),
}

/// Receives a request's events. The engine calls it between forward passes, so it must not block: a receiver that is
/// too slow for its buffer should be treated as gone.
pub trait Sink: Send {
    /// Receives an event. `false` means that the receiver is gone: the request is cancelled at once.
    fn send(&mut self, event: Event) -> bool;

    /// Returns whether the receiver is gone. The engine asks at each step, also while the request waits.
    fn closed(&self) -> bool {
        false
    }
}

/// The reason why a request or a capture was refused. Its sink receives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// All slots and the queue are taken.
    #[error("too many requests: {waiting} waiting")]
    QueueFull {
        /// Requests that wait for a slot.
        waiting: usize,
    },
    /// The prompt does not fit the context together with one generated token.
    #[error("the prompt has {tokens} tokens; the context holds {context}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token id is not in the vocabulary.
    #[error("token {id} is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The token's id.
        id: u32,
        /// The number of tokens in the vocabulary.
        vocabulary: usize,
    },
    /// A parameter is out of range.
    #[error("{field}: {why}")]
    InvalidSampling {
        /// The parameter's name.
        field: &'static str,
        /// The range that it must be in.
        why: &'static str,
    },
    /// A capture asks for what cannot be.
    #[error(transparent)]
    InvalidCapture(#[from] InvalidCapture),
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

impl From<InvalidParameter> for SubmitError {
    fn from(invalid: InvalidParameter) -> Self {
        Self::InvalidSampling { field: invalid.field, why: invalid.why }
    }
}
