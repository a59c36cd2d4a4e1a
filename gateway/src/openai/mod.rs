//! OpenAI's REST under `/v1`: models, chat completions, completions. The official clients work unchanged; what is
//! not supported is refused by name rather than ignored.

mod bounds;
mod chat;
mod completions;
mod constraint;
mod logprobs;
mod models;
mod prompt;
mod run;
mod sampling;
pub(crate) mod stream;
mod tools;

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    routing::{get, post},
};
use millm_proto::runtime::v1::{FinishReason, GenerateEnd};
use serde::Serialize;

use crate::app::App;
pub use bounds::Held;

/// Names the implementation, as OpenAI's answers do.
const FINGERPRINT: &str = concat!("millm-", env!("CARGO_PKG_VERSION"));

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}", get(models::one))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
}

/// Tokens of a whole request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptTokens,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct PromptTokens {
    cached_tokens: u32,
}

/// `usage` where there is such a member: null until all is known.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
enum Account {
    Open,
    Settled(Usage),
}

/// Counts what a request's generations took. A prompt counts once for all choices made of it, and as found in the
/// cache only as far as none of them had to run it.
#[derive(Debug, Default)]
struct Tally {
    /// Tokens of each prompt, and how many of them were found in the cache.
    prompts: HashMap<usize, (u32, u32)>,
    generated: u32,
}

impl Tally {
    fn add(&mut self, prompt: usize, end: &GenerateEnd) {
        let (_, cached) = self.prompts.entry(prompt).or_insert((end.prompt_tokens, end.cached_tokens));
        *cached = (*cached).min(end.cached_tokens);
        self.generated += end.generated_tokens;
    }

    fn usage(&self) -> Usage {
        let prompt_tokens = self.prompts.values().map(|(tokens, _)| tokens).sum();
        let cached_tokens = self.prompts.values().map(|(_, cached)| cached).sum();
        Usage {
            prompt_tokens,
            completion_tokens: self.generated,
            total_tokens: prompt_tokens + self.generated,
            prompt_tokens_details: PromptTokens { cached_tokens },
        }
    }
}

fn finish_reason(end: &GenerateEnd) -> &'static str {
    match end.finish_reason() {
        FinishReason::Length => "length",
        _ => "stop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_counts_once_and_as_cached_only_when_nobody_ran_it() {
        let end = |cached_tokens| GenerateEnd {
            prompt_tokens: 100,
            generated_tokens: 5,
            cached_tokens,
            ..GenerateEnd::default()
        };
        let mut tally = Tally::default();
        // Three choices of one prompt, of which the second came first; two of another that was known.
        for (prompt, cached) in [(0, 100), (0, 0), (0, 100), (1, 96), (1, 100)] {
            tally.add(prompt, &end(cached));
        }
        let usage = tally.usage();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (200, 25, 225));
        assert_eq!(usage.prompt_tokens_details.cached_tokens, 96);
    }
}
