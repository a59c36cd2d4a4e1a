//! What a caller asks of the engine, and what it hears back.

use crate::constraint::Constraint;
use crate::sampler::Sampling;

/// One completion to generate.
#[derive(Debug, Default)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    pub sampling: Sampling,
    /// At most so many tokens are generated; `None` is until the context is full. 0 scores the prompt only.
    pub max_tokens: Option<usize>,
    /// Any of these ends the generation.
    pub stop_token_ids: Vec<u32>,
    /// Generate on past `stop_token_ids`.
    pub ignore_eos: bool,
    /// Give each token's log-probability and those of this many most likely ones.
    pub logprobs: Option<usize>,
    /// Give the prompt tokens' log-probabilities too (with `logprobs`' number of most likely ones, or none).
    pub prompt_logprobs: bool,
    /// What the answer must look like.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Guess up to this many tokens ahead from the text's own repetitions: the text is the same, and comes faster
    /// where it repeats itself. 0 is off.
    pub speculate: usize,
}

/// A token and how likely it was, by the model's own distribution before temperature, penalties and bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub id: u32,
    /// Natural logarithm; `None` when not asked for, and for the first prompt token, which nothing predicts.
    pub logprob: Option<f32>,
    /// The most likely tokens here with their log-probabilities, most likely first.
    pub top: Vec<(u32, f32)>,
}

/// In this order: `Started`, any number of `Token`s, `End`. A request that is cancelled or fails before it started
/// hears `End` alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt is in the cache.
    Started {
        /// One for each prompt token, when asked for.
        prompt: Option<Vec<Token>>,
    },
    /// A generated token. A stop token is not sent: it is in `End`.
    Token(Token),
    /// The last event.
    End {
        reason: EndReason,
        prompt_tokens: usize,
        /// Prompt tokens that were found in the cache.
        cached: usize,
        /// Tokens sampled, a stop token included.
        generated: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// A stop token was generated.
    Eos(u32),
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// The constraint allows nothing more.
    Complete,
    Cancelled,
    /// The constraint cannot be held: it is too complex.
    Unsatisfiable(String),
    /// Who worked out the constraint is gone.
    ConstraintLost(String),
    /// There was no memory for it.
    OutOfMemory,
    Failed(String),
}

/// Where a request's events go. The engine calls it between forward passes, so it must not block: a receiver too
/// slow for its buffer should be treated as gone.
pub trait Sink: Send {
    /// `false` says that the receiver is gone: the request is cancelled at once.
    fn send(&mut self, event: Event) -> bool;

    /// Whether the receiver is gone, asked at each step, also while the request waits.
    fn closed(&self) -> bool {
        false
    }
}

/// Why a request was not taken. Nothing is sent to its sink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("too many requests: {waiting} waiting")]
    QueueFull { waiting: usize },
    #[error("the prompt has {tokens} tokens; the context holds {context}")]
    PromptTooLong { tokens: usize, context: usize },
    #[error("the prompt is empty")]
    EmptyPrompt,
    #[error("token {id} is outside the vocabulary of {vocabulary}")]
    UnknownToken { id: u32, vocabulary: usize },
    #[error("{field}: {why}")]
    InvalidSampling { field: &'static str, why: &'static str },
    #[error("the engine has stopped")]
    Stopped,
}
