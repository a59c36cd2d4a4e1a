//! Converts the engine's events to the messages of a response stream: whole characters, without stop strings, with the
//! text of each token's log probability, and with the usage at the end.

use std::{sync::Arc, time::Instant};

use millm_engine::{EndReason, Event, Token};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{FinishReason, GenerateEnd, GenerateResponse, GenerateStart, TokenLogprob};
use millm_sandbox::TextDecoder;

use super::stop::{Scan, StopMatcher};
use crate::{error, tokenizer_bundle::TokenizerBundle};

/// The response to one request, while it is generated.
pub(crate) struct ResponseBuilder {
    tokenizer: Arc<TokenizerBundle>,
    decoder: TextDecoder,
    stops: StopMatcher,
    /// The name of the constraint in errors.
    constraint_field: String,
    /// The first message, until it is sent.
    start: Option<GenerateStart>,
    requested: Instant,
    first_token: Option<Instant>,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated_tokens: usize,
    ended: bool,
}

impl ResponseBuilder {
    /// Returns an empty response. `start` comes without the prompt's log probabilities; times count from `requested`.
    pub fn new(
        tokenizer: Arc<TokenizerBundle>,
        stop: Vec<String>,
        constraint_field: String,
        start: GenerateStart,
        requested: Instant,
    ) -> Self {
        let decoder = tokenizer.detokenizer().decoder();
        Self {
            decoder,
            tokenizer,
            stops: StopMatcher::new(stop),
            constraint_field,
            prompt_tokens: start.prompt_token_ids.len(),
            start: Some(start),
            requested,
            first_token: None,
            cached_tokens: 0,
            generated_tokens: 0,
            ended: false,
        }
    }

    /// Returns whether the last message was returned.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Returns the messages for an event.
    ///
    /// # Errors
    ///
    /// INTERNAL, INSUFFICIENT_MEMORY, INVALID_ARGUMENT or SERVICE_UNAVAILABLE if generation failed.
    pub fn push(&mut self, event: Event) -> Result<Vec<GenerateResponse>, ServiceError> {
        match event {
            Event::Started { prompt } => Ok(self.begin(prompt.unwrap_or_default()).into_iter().collect()),
            Event::Token(token) => Ok(self.token(token)),
            Event::End { reason, generated, cached, .. } => {
                self.cached_tokens = cached;
                // The engine also counts the stop token, which has no text and is not sent.
                self.generated_tokens = self.generated_tokens.max(generated);
                let finish = match reason {
                    EndReason::Eos(_) | EndReason::Complete => FinishReason::Stop,
                    EndReason::Length => FinishReason::Length,
                    EndReason::Cancelled => FinishReason::Cancelled,
                    EndReason::Unsatisfiable(why) => {
                        return Err(error::unsatisfiable(&self.constraint_field, &why));
                    }
                    EndReason::ConstraintUnavailable(why) => {
                        tracing::warn!("the process of a constraint was lost: {why}");
                        return Err(ServiceError::service_unavailable("constraint's process"));
                    }
                    EndReason::OutOfMemory => return Err(ServiceError::request_out_of_memory()),
                    EndReason::Failed(why) => return Err(ServiceError::internal(why)),
                };
                // A request that is cancelled while it waits has no start event.
                let begin = self.begin(Vec::new());
                Ok(begin.into_iter().chain(self.finish(finish)).collect())
            }
        }
    }

    /// Returns the first message, once.
    fn begin(&mut self, prompt: Vec<Token>) -> Option<GenerateResponse> {
        let mut start = self.start.take()?;
        start.prompt_logprobs = prompt.into_iter().map(|token| self.tokenizer.logprob(token)).collect();
        Some(GenerateResponse { start: Some(start), ..GenerateResponse::default() })
    }

    fn token(&mut self, token: Token) -> Vec<GenerateResponse> {
        self.first_token.get_or_insert_with(Instant::now);
        self.generated_tokens += 1;
        let id = token.id;
        let scan = self.stops.push(&self.decoder.push(id));
        let (text, stop) = match scan {
            Scan::Text(text) => (text, None),
            Scan::Stop { text, stop } => (text, Some(stop)),
        };
        let logprobs: Vec<TokenLogprob> =
            token.logprob.is_some().then(|| self.tokenizer.logprob(token)).into_iter().collect();
        let mut messages =
            vec![GenerateResponse { text, token_ids: vec![id], logprobs, ..GenerateResponse::default() }];
        if let Some(stop) = stop {
            messages.push(self.end(FinishReason::Stop, stop));
        }
        messages
    }

    /// Returns the text that was held back, up to a stop string, and the end.
    fn finish(&mut self, reason: FinishReason) -> Vec<GenerateResponse> {
        let rest = self.decoder.flush();
        let (text, end) = match self.stops.push(&rest) {
            Scan::Text(text) => (text + &self.stops.finish(), self.end(reason, String::new())),
            Scan::Stop { text, stop } => (text, self.end(FinishReason::Stop, stop)),
        };
        let text = (!text.is_empty()).then(|| GenerateResponse { text, ..GenerateResponse::default() });
        text.into_iter().chain([end]).collect()
    }

    fn end(&mut self, reason: FinishReason, stop: String) -> GenerateResponse {
        self.ended = true;
        let since = |instant: Instant| prost_types::Duration::try_from(instant - self.requested).ok();
        let end = GenerateEnd {
            finish_reason: reason.into(),
            prompt_tokens: self.prompt_tokens as u32,
            generated_tokens: self.generated_tokens as u32,
            stop,
            time_to_first_token: self.first_token.and_then(since),
            total_time: since(Instant::now()),
            cached_tokens: self.cached_tokens as u32,
        };
        GenerateResponse { end: Some(end), ..GenerateResponse::default() }
    }
}
