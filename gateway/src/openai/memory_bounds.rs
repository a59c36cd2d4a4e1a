//! Limits on the memory of one request. Each error names the field, what was found and what is allowed.

use std::convert::Infallible;

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

use super::answer_memory::{AnswerMemory, Share};
use crate::state::AppState;

/// Bytes of an answer that does not stream, all choices together.
pub const MAX_COLLECTED: usize = 64 << 20;
/// Bytes of an answer that are sent at once.
const PIECE: usize = 64 << 10;
/// Bytes that are sent to the Runtime for the choices of one prompt.
pub const MAX_SENT: usize = 32 << 20;
/// Generations of one request.
pub const MAX_GENERATIONS: usize = 2048;

/// Bytes of memory of a token's log probability beside its text: the message, and at least two allocations.
const ENTRY: usize = size_of::<TokenLogprob>() + 32;

/// The parts of a request that its answer's size depends on.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Choices of all prompts.
    pub generations: usize,
    /// Tokens of each choice.
    pub max_tokens: Option<u32>,
    /// For each token, its own log probability and those of so many others.
    pub logprobs: Option<u32>,
    /// The field that asks for the log probabilities.
    pub field: &'static str,
    /// Bytes of all prompts that are repeated.
    pub echoed: usize,
}

impl Asked {
    /// Returns the error of an answer of at least `found` bytes.
    fn too_large(&self, found: usize) -> ServiceError {
        let field = match self.logprobs {
            Some(_) => self.field,
            None if self.echoed > MAX_COLLECTED / 2 => "echo",
            None => "n",
        };
        let why = format!(
            "makes an answer of at least {found} bytes in its {} choices, the most allowed is {MAX_COLLECTED}; \
             streaming ('stream': true) has no such bound",
            self.generations
        );
        ServiceError::invalid_argument(field, why)
    }

    /// Refuses an answer that is too large when all its tokens come: before anything runs. The longest context of the
    /// models that are loaded bounds what `max_tokens` may say without meaning it.
    pub async fn check(&self, app: &AppState) -> Result<(), ServiceError> {
        let Some(most) = self.max_tokens else { return Ok(()) };
        if self.least(most) <= MAX_COLLECTED {
            return Ok(());
        }
        let models = app.status().await?.models;
        let Some(context) = models.iter().map(|model| model.context_length).max() else { return Ok(()) };
        match self.least(most.min(context)) {
            found if found > MAX_COLLECTED => Err(self.too_large(found)),
            _ => Ok(()),
        }
    }

    /// Returns the bytes that so many tokens for each choice take whatever their text is.
    fn least(&self, tokens: u32) -> usize {
        let entries = self.logprobs.map_or(0, |top| top as usize + 1);
        [self.generations, tokens as usize, entries]
            .into_iter()
            .fold(ENTRY, usize::saturating_mul)
            .saturating_add(self.echoed)
    }
}

/// Counts what an answer collects.
#[derive(Debug)]
pub struct Collected {
    asked: Asked,
    share: Share,
}

impl Collected {
    /// Returns a count that begins with the prompts to repeat.
    pub fn new(asked: Asked, held: &AnswerMemory) -> Self {
        Self { asked, share: held.share(asked.echoed) }
    }

    /// Counts one more message.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT when the answer is too large, QUEUE_FULL when it is not small and all together are.
    pub fn add(&mut self, response: &GenerateResponse) -> Result<(), ServiceError> {
        let logprobs = response.logprobs.iter().map(taken).sum::<usize>();
        let prompt = response.start.iter().flat_map(|start| &start.prompt_logprobs).map(taken).sum::<usize>();
        let bytes = self.share.bytes() + response.text.len() + logprobs + prompt;
        if bytes > MAX_COLLECTED {
            return Err(self.asked.too_large(bytes));
        }
        self.share.grow(bytes)
    }

    /// Returns the answer as JSON. It counts until it is sent.
    ///
    /// # Errors
    ///
    /// INTERNAL when it cannot be written.
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

/// Returns the bytes of memory that a token takes.
fn taken(token: &TokenLogprob) -> usize {
    size_of::<TokenLogprob>()
        + token.text.len()
        + token.raw.len()
        + token.top.iter().map(taken).sum::<usize>()
}

/// Refuses requests whose choices take too much together; `largest` is the largest request of a prompt.
///
/// # Errors
///
/// INVALID_ARGUMENT of `n`.
pub fn check_sent(choices: u32, largest: Option<&GenerateRequest>) -> Result<(), ServiceError> {
    let one = largest.map_or(0, GenerateRequest::encoded_len);
    if one.saturating_mul(choices as usize) <= MAX_SENT {
        return Ok(());
    }
    let why = format!(
        "asks for {choices} choices of a prompt that is {one} bytes with all that goes with it, the most allowed is {MAX_SENT} \
         for all choices together"
    );
    Err(ServiceError::invalid_argument("n", why))
}

/// Returns the number of generations.
///
/// # Errors
///
/// INVALID_ARGUMENT of `n` when they are too many.
pub fn generations(prompts: usize, choices: u32) -> Result<usize, ServiceError> {
    let count = prompts.saturating_mul(choices as usize);
    if count <= MAX_GENERATIONS {
        return Ok(count);
    }
    let why = format!(
        "asks for {choices} choices of each of {prompts} prompts, which are {count}; the most allowed is {MAX_GENERATIONS}"
    );
    Err(ServiceError::invalid_argument("n", why))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use millm_kit::Reason;

    use super::*;
    use crate::openai::answer_memory::{ALWAYS_HELD, MAX_HELD};

    const ASKED: Asked =
        Asked { generations: 1, max_tokens: None, logprobs: None, field: "logprobs", echoed: 0 };

    fn text(bytes: usize) -> GenerateResponse {
        GenerateResponse { text: "x".repeat(bytes), ..GenerateResponse::default() }
    }

    #[test]
    fn all_answers_together_are_bounded() {
        let held = AnswerMemory::default();
        let mut one = Collected::new(ASKED, &held);
        one.add(&text(ALWAYS_HELD)).unwrap();
        let others = held.share(MAX_HELD);
        let error = one.add(&text(1)).unwrap_err();
        assert_eq!(error.reason, Reason::QueueFull);
        assert!(error.message.contains("536870912"), "{}", error.message);
        Collected::new(ASKED, &held).add(&text(ALWAYS_HELD / 2)).expect("small ones go on");
        drop(one);
        assert_eq!(held.bytes(), MAX_HELD);
        drop(others);
        assert_eq!(held.bytes(), 0);
    }

    #[test]
    fn what_is_repeated_counts() {
        let held = AnswerMemory::default();
        let echoed = Asked { echoed: MAX_COLLECTED, ..ASKED };
        let error = Collected::new(echoed, &held).add(&text(1)).unwrap_err();
        assert_eq!(error.details["field"], "echo", "{}", error.message);
        assert_eq!(held.bytes(), 0);
    }

    #[tokio::test]
    async fn an_answer_counts_until_it_is_sent() {
        let held = AnswerMemory::default();
        let whole = "y".repeat(3 * PIECE);
        let response = Collected::new(ASKED, &held).answer(&whole).unwrap();
        assert_eq!(held.bytes(), 3 * PIECE + 2);
        assert_eq!(response.headers()[header::CONTENT_LENGTH], (3 * PIECE + 2).to_string());
        let sent = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(sent, format!("\"{whole}\""));
        assert_eq!(held.bytes(), 0);
    }
}
