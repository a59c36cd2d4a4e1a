//! OpenAI's REST API under `/v1`: models, chat completions, completions. The official clients work unchanged. Fields that
//! are not supported are refused by name rather than ignored.

mod answer_memory;
pub(crate) mod chat;
pub(crate) mod completions;
mod constraint;
mod generations;
mod memory_bounds;
pub(crate) mod models;
mod number_ranges;
mod prompt;
mod sampling;
pub(crate) mod stream;
mod tools;

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    routing::{get, post},
};
use millm_api::openai::answer::{FinishReason, PromptTokensDetails, Usage};
use millm_proto::runtime::v1::{self as runtime, GenerateEnd};

use crate::state::AppState;
pub use answer_memory::AnswerMemory;

/// The implementation's name and version: the `system_fingerprint` of answers.
const FINGERPRINT: &str = concat!("millm-", env!("CARGO_PKG_VERSION"));

/// Returns the routes under `/v1`. A new route is also listed in [`crate::openapi`].
pub fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}", get(models::one))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
}

/// Counts the tokens of a request's generations. A prompt counts once for all choices made of it, and as found in the
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
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }
}

fn finish_reason(end: &GenerateEnd) -> FinishReason {
    match end.finish_reason() {
        runtime::FinishReason::Length => FinishReason::Length,
        _ => FinishReason::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_counts_once_and_as_cached_only_when_no_choice_ran_it() {
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
