//! What one request may take of memory. Each bound is stated in its error: the field, what was found, what is allowed.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use futures::stream;
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{GenerateRequest, GenerateResponse, TokenLogprob};
use prost::Message as _;
use serde::Serialize;

use crate::app::App;

/// What an answer that does not stream collects, all choices together.
pub const MOST_COLLECTED: usize = 64 << 20;
/// What all such answers take that are collected or wait to be read.
const MOST_HELD: usize = 512 << 20;
/// What each may take even then.
const ALWAYS_HELD: usize = 1 << 20;
/// Of an answer, sent at once.
const PIECE: usize = 64 << 10;
/// What is sent to the runtime for the choices of one prompt.
pub const MOST_SENT: usize = 32 << 20;
/// Generations of one request.
pub const MOST_GENERATIONS: usize = 2048;

/// Bytes of memory of a token's log probability beside its text: itself, and the least of two allocations.
const ENTRY: usize = size_of::<TokenLogprob>() + 32;

/// What a request asks for, as far as its answer's size depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub generations: usize,
    pub max_tokens: Option<u32>,
    /// For each token, its own log probability and those of so many others.
    pub logprobs: Option<u32>,
    /// The field that asks for the log probabilities.
    pub field: &'static str,
    /// Of all prompts that are repeated.
    pub echoed: usize,
}

impl Asked {
    /// An answer of `found` bytes at least.
    fn too_large(&self, found: usize) -> ServiceError {
        let field = match self.logprobs {
            Some(_) => self.field,
            None if self.echoed > MOST_COLLECTED / 2 => "echo",
            None => "n",
        };
        let why = format!(
            "makes an answer of at least {found} bytes in its {} choices, the most allowed is {MOST_COLLECTED}; \
             streaming ('stream': true) has no such bound",
            self.generations
        );
        ServiceError::invalid_argument(field, why)
    }

    /// Refuses an answer that is too large when all its tokens come: before anything runs. The longest context of the
    /// models that are loaded bounds what `max_tokens` may say without meaning it.
    pub async fn check(&self, app: &App) -> Result<(), ServiceError> {
        let Some(most) = self.max_tokens else { return Ok(()) };
        if self.least(most) <= MOST_COLLECTED {
            return Ok(());
        }
        let models = app.status().await?.models;
        let Some(context) = models.iter().map(|model| model.context_length).max() else { return Ok(()) };
        match self.least(most.min(context)) {
            found if found > MOST_COLLECTED => Err(self.too_large(found)),
            _ => Ok(()),
        }
    }

    /// Bytes that so many tokens for each choice take whatever their text is.
    fn least(&self, tokens: u32) -> usize {
        let entries = self.logprobs.map_or(0, |top| top as usize + 1);
        [self.generations, tokens as usize, entries]
            .into_iter()
            .fold(ENTRY, usize::saturating_mul)
            .saturating_add(self.echoed)
    }
}

/// Bytes of all answers that do not stream: collected, or written and not sent yet.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<AtomicUsize>);

/// One answer's share, given back when it is sent or dropped.
#[derive(Debug)]
struct Share {
    held: Held,
    bytes: usize,
}

impl Share {
    fn set(&mut self, bytes: usize) {
        self.held.0.fetch_add(bytes, Ordering::Relaxed);
        self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts what an answer collects.
#[derive(Debug)]
pub struct Collected {
    asked: Asked,
    share: Share,
}

impl Collected {
    pub fn new(asked: Asked, held: &Held) -> Self {
        let mut share = Share { held: held.clone(), bytes: 0 };
        share.set(asked.echoed);
        Self { asked, share }
    }

    /// INVALID_ARGUMENT when the answer is too large, QUEUE_FULL when it is not small and all together are.
    pub fn add(&mut self, response: &GenerateResponse) -> Result<(), ServiceError> {
        let logprobs = response.logprobs.iter().map(taken).sum::<usize>();
        let prompt = response.start.iter().flat_map(|start| &start.prompt_logprobs).map(taken).sum::<usize>();
        let bytes = self.share.bytes + response.text.len() + logprobs + prompt;
        if bytes > MOST_COLLECTED {
            return Err(self.asked.too_large(bytes));
        }
        self.share.set(bytes);
        let all = self.share.held.0.load(Ordering::Relaxed);
        if all > MOST_HELD && bytes > ALWAYS_HELD {
            return Err(ServiceError::answers_not_read(all, MOST_HELD));
        }
        Ok(())
    }

    /// The answer as JSON. It counts until it is sent.
    pub fn answer(self, whole: &impl Serialize) -> Result<Response, ServiceError> {
        let json = serde_json::to_vec(whole).map_err(ServiceError::internal)?;
        let Self { mut share, .. } = self;
        share.set(json.len());
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::CONTENT_LENGTH, HeaderValue::from(json.len())),
        ];
        let pieces = stream::unfold((Bytes::from(json), share), |(mut rest, share)| async {
            let piece = rest.split_to(rest.len().min(PIECE));
            (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), (rest, share)))
        });
        Ok((headers, Body::from_stream(pieces)).into_response())
    }
}

/// Bytes of memory.
fn taken(token: &TokenLogprob) -> usize {
    size_of::<TokenLogprob>()
        + token.text.len()
        + token.raw.len()
        + token.top.iter().map(taken).sum::<usize>()
}

/// `largest` is that of the prompts' requests with most in it.
pub fn check_sent(choices: u32, largest: Option<&GenerateRequest>) -> Result<(), ServiceError> {
    let one = largest.map_or(0, GenerateRequest::encoded_len);
    if one.saturating_mul(choices as usize) <= MOST_SENT {
        return Ok(());
    }
    let why = format!(
        "asks for {choices} choices of a prompt that is {one} bytes with all that goes with it, the most allowed is {MOST_SENT} \
         for all choices together"
    );
    Err(ServiceError::invalid_argument("n", why))
}

/// How many generations so many prompts are.
pub fn generations(prompts: usize, choices: u32) -> Result<usize, ServiceError> {
    let count = prompts.saturating_mul(choices as usize);
    if count <= MOST_GENERATIONS {
        return Ok(count);
    }
    let why = format!(
        "asks for {choices} choices of each of {prompts} prompts, which are {count}; the most allowed is {MOST_GENERATIONS}"
    );
    Err(ServiceError::invalid_argument("n", why))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use millm_kit::Reason;

    use super::*;

    const ASKED: Asked =
        Asked { generations: 1, max_tokens: None, logprobs: None, field: "logprobs", echoed: 0 };

    fn text(bytes: usize) -> GenerateResponse {
        GenerateResponse { text: "x".repeat(bytes), ..GenerateResponse::default() }
    }

    #[test]
    fn all_answers_together_are_bounded() {
        let held = Held::default();
        let others = Share { held: held.clone(), bytes: 0 };
        let mut one = Collected::new(ASKED, &held);
        one.add(&text(ALWAYS_HELD)).unwrap();
        held.0.fetch_add(MOST_HELD, Ordering::Relaxed);
        let error = one.add(&text(1)).unwrap_err();
        assert_eq!(error.reason, Reason::QueueFull);
        assert!(error.message.contains("536870912"), "{}", error.message);
        Collected::new(ASKED, &held).add(&text(ALWAYS_HELD / 2)).expect("small ones go on");
        drop((one, others));
        assert_eq!(held.0.load(Ordering::Relaxed), MOST_HELD);
    }

    #[test]
    fn what_is_repeated_counts() {
        let held = Held::default();
        let echoed = Asked { echoed: MOST_COLLECTED, ..ASKED };
        let error = Collected::new(echoed, &held).add(&text(1)).unwrap_err();
        assert_eq!(error.details["field"], "echo", "{}", error.message);
        assert_eq!(held.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_answer_counts_until_it_is_sent() {
        let held = Held::default();
        let whole = "y".repeat(3 * PIECE);
        let response = Collected::new(ASKED, &held).answer(&whole).unwrap();
        assert_eq!(held.0.load(Ordering::Relaxed), 3 * PIECE + 2);
        assert_eq!(response.headers()[header::CONTENT_LENGTH], (3 * PIECE + 2).to_string());
        let sent = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(sent, format!("\"{whole}\""));
        assert_eq!(held.0.load(Ordering::Relaxed), 0);
    }
}
