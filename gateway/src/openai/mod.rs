//! OpenAI's REST under `/v1`: models, chat completions, completions. The official clients work unchanged; what is
//! not supported is refused by name rather than ignored.

mod chat;
mod completions;
mod logprobs;
mod models;
mod prompt;
mod run;
mod sampling;
pub(crate) mod stream;
mod tools;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};
use millm_proto::runtime::v1::{FinishReason, GenerateEnd};
use serde::Serialize;

use crate::app::App;

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

impl Usage {
    /// Adds one generation; the prompt counts once for all choices made of it.
    fn add(&mut self, end: &GenerateEnd, first_choice: bool) {
        if first_choice {
            self.prompt_tokens += end.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += end.cached_tokens;
        }
        self.completion_tokens += end.generated_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

fn finish_reason(end: &GenerateEnd) -> &'static str {
    match end.finish_reason() {
        FinishReason::Length => "length",
        _ => "stop",
    }
}
