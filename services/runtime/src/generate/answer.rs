//! From the engine's events to the messages of the stream: whole characters, no stop strings, log probabilities
//! with each token's own text, and the account at the end.

use std::{sync::Arc, time::Instant};

use millm_engine::{EndReason, Event, Token};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{FinishReason, GenerateEnd, GenerateResponse, GenerateStart, TokenLogprob};
use millm_sandbox::TextDecoder;

use super::stop::{Step, StopMatcher};
use crate::{failure, language::Language};

/// One answer as it is made.
pub struct Answer {
    language: Arc<Language>,
    decoder: TextDecoder,
    stops: StopMatcher,
    /// What the caller calls the answer's constraint.
    constraint: String,
    /// Until it is sent.
    start: Option<GenerateStart>,
    asked: Instant,
    first_token: Option<Instant>,
    prompt_tokens: usize,
    cached: usize,
    generated: usize,
    ended: bool,
}

impl Answer {
    /// `start` without the prompt's log probabilities; times count from `asked`.
    pub fn new(
        language: Arc<Language>,
        (stop, constraint): (Vec<String>, String),
        start: GenerateStart,
        asked: Instant,
    ) -> Self {
        let decoder = language.detokenizer().decoder();
        Self {
            decoder,
            language,
            stops: StopMatcher::new(stop),
            constraint,
            prompt_tokens: start.prompt_token_ids.len(),
            start: Some(start),
            asked,
            first_token: None,
            cached: 0,
            generated: 0,
            ended: false,
        }
    }

    /// Nothing more will come.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// INTERNAL when the engine failed.
    pub fn absorb(&mut self, event: Event) -> Result<Vec<GenerateResponse>, ServiceError> {
        match event {
            Event::Started { prompt } => Ok(self.begin(prompt.unwrap_or_default()).into_iter().collect()),
            Event::Token(token) => Ok(self.token(token)),
            Event::End { reason, generated, cached, .. } => {
                self.cached = cached;
                // The engine counts the stop token, which has no text and is not sent.
                self.generated = self.generated.max(generated);
                let finish = match reason {
                    EndReason::Eos(_) | EndReason::Complete => FinishReason::Stop,
                    EndReason::Length => FinishReason::Length,
                    EndReason::Cancelled => FinishReason::Cancelled,
                    EndReason::Unsatisfiable(why) => {
                        return Err(failure::of_held(&self.constraint, &why));
                    }
                    EndReason::ConstraintLost(why) => {
                        tracing::warn!("a constraint is lost: {why}");
                        return Err(ServiceError::service_unavailable("constraint's process"));
                    }
                    EndReason::OutOfMemory => return Err(ServiceError::request_out_of_memory()),
                    EndReason::Failed(why) => return Err(ServiceError::internal(why)),
                };
                // What is cancelled while it waits has not begun.
                let begin = self.begin(Vec::new());
                Ok(begin.into_iter().chain(self.finish(finish)).collect())
            }
        }
    }

    /// The first message, once.
    fn begin(&mut self, prompt: Vec<Token>) -> Option<GenerateResponse> {
        let mut start = self.start.take()?;
        start.prompt_logprobs = prompt.into_iter().map(|token| self.language.logprob(token)).collect();
        Some(GenerateResponse { start: Some(start), ..GenerateResponse::default() })
    }

    fn token(&mut self, token: Token) -> Vec<GenerateResponse> {
        self.first_token.get_or_insert_with(Instant::now);
        self.generated += 1;
        let id = token.id;
        let step = self.stops.push(&self.decoder.push(id));
        let (text, stop) = match step {
            Step::Text(text) => (text, None),
            Step::Stop { text, stop } => (text, Some(stop)),
        };
        let logprobs: Vec<TokenLogprob> =
            token.logprob.is_some().then(|| self.language.logprob(token)).into_iter().collect();
        let mut messages =
            vec![GenerateResponse { text, token_ids: vec![id], logprobs, ..GenerateResponse::default() }];
        if let Some(stop) = stop {
            messages.push(self.end(FinishReason::Stop, stop));
        }
        messages
    }

    /// What was held back comes out, as far as no stop string is in it.
    fn finish(&mut self, reason: FinishReason) -> Vec<GenerateResponse> {
        let rest = self.decoder.flush();
        let (text, end) = match self.stops.push(&rest) {
            Step::Text(text) => (text + &self.stops.finish(), self.end(reason, String::new())),
            Step::Stop { text, stop } => (text, self.end(FinishReason::Stop, stop)),
        };
        let text = (!text.is_empty()).then(|| GenerateResponse { text, ..GenerateResponse::default() });
        text.into_iter().chain([end]).collect()
    }

    fn end(&mut self, reason: FinishReason, stop: String) -> GenerateResponse {
        self.ended = true;
        let since = |instant: Instant| prost_types::Duration::try_from(instant - self.asked).ok();
        let end = GenerateEnd {
            finish_reason: reason.into(),
            prompt_tokens: self.prompt_tokens as u32,
            generated_tokens: self.generated as u32,
            stop,
            time_to_first_token: self.first_token.and_then(since),
            total_time: since(Instant::now()),
            cached_tokens: self.cached as u32,
        };
        GenerateResponse { end: Some(end), ..GenerateResponse::default() }
    }
}
