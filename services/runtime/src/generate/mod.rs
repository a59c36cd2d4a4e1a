//! Text generation: from a request to the stream of its response.

mod constraint;
mod event_queue;
mod prompt;
mod response;
mod sampling;
mod stop;

use std::{sync::Arc, time::Instant};

use async_stream::try_stream;
use futures::Stream;
use millm_engine::Request;
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{GenerateRequest, GenerateResponse, GenerateStart, generate_request::Prompt};
use tonic::Status;

pub(crate) use self::prompt::tokens as prompt_tokens;
use self::{event_queue::event_queue, response::ResponseBuilder};
use crate::{
    error,
    loader::{LoadedModel, RequestGuard},
};

/// The limit of OpenAI's API.
const MAX_LOGPROBS: u32 = 20;
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
const MAX_STOP_TOKENS: usize = 1024;
const MAX_MESSAGES: usize = 10_000;
const MAX_BIASED_TOKENS: usize = 16_384;
/// The log probabilities of a prompt are sent in one message, and each takes about a hundred bytes with its text.
const MAX_PROMPT_LOGPROBS: usize = 1 << 18;

/// Submits a request to the engine and returns the stream of its response. Dropping the stream cancels the generation.
///
/// `guard` keeps the model in use, and `handle` is its handle now.
///
/// # Errors
///
/// Errors before the generation starts: INVALID_ARGUMENT with the field, CONTEXT_LENGTH_EXCEEDED, QUEUE_FULL, or
/// MODEL_NOT_LOADED if the model has been unloaded.
pub(crate) async fn generate(
    model: Arc<LoadedModel>,
    guard: RequestGuard,
    handle: String,
    request: GenerateRequest,
) -> Result<impl Stream<Item = Result<GenerateResponse, Status>> + Send, ServiceError> {
    let requested = Instant::now();
    check(&request)?;
    let tokenizer = Arc::clone(&model.tokenizer);
    let sampling = sampling::merge(
        request.sampling.unwrap_or_default(),
        &tokenizer.defaults,
        tokenizer.vocabulary_size,
    )?;
    let field = constraint::field(request.constraint.as_ref());
    let constraint = constraint::compile(&tokenizer, request.constraint, &field).await?;
    let context = model.context_length as usize;
    let prompt = prompt::tokens(&tokenizer, request.prompt, context).await?;

    if request.prompt_logprobs {
        check_prompt_logprobs(prompt.len(), request.logprobs)?;
    }
    let mut stop_token_ids = request.stop_token_ids;
    if !request.ignore_eos {
        stop_token_ids.extend(&tokenizer.eos_token_ids);
    }
    let start = GenerateStart {
        model_id: model.id,
        handle: handle.clone(),
        prompt_tokens: prompt.len() as u32,
        prompt_token_ids: prompt.clone(),
        prompt_logprobs: Vec::new(),
    };
    let (sink, mut events) = event_queue(guard);
    let submission = Request {
        prompt,
        sampling,
        max_tokens: request.max_tokens.map(|limit| limit as usize),
        stop_token_ids,
        // `ignore_eos` leaves out the model's stop tokens above, but not the caller's.
        ignore_eos: false,
        logprobs: request.logprobs.map(|top| top as usize),
        prompt_logprobs: request.prompt_logprobs,
        constraint,
        max_draft_tokens: request.speculate.unwrap_or(model.max_draft_tokens) as usize,
    };
    model.engine.submit(submission, sink).map_err(|error| error::from_submit(&error, &handle))?;
    // The stream must not keep the model in memory.
    drop(model);

    let mut response = ResponseBuilder::new(tokenizer, request.stop, field, start, requested);
    Ok(try_stream! {
        while !response.ended() {
            let Some(event) = events.recv().await.map_err(Status::from)? else {
                Err(ServiceError::internal("the engine dropped the request without an end"))?;
                return;
            };
            for message in response.push(event).map_err(Status::from)? {
                yield message;
            }
        }
    })
}

/// Checks the sizes of the request's lists.
fn check(request: &GenerateRequest) -> Result<(), ServiceError> {
    let invalid = |field, why: String| Err(ServiceError::invalid_argument(field, why));
    if request.logprobs.is_some_and(|top| top > MAX_LOGPROBS) {
        return invalid("logprobs", format!("must be at most {MAX_LOGPROBS}"));
    }
    if request.stop.len() > MAX_STOPS {
        return invalid(
            "stop",
            format!("has {} strings, the most allowed are {MAX_STOPS}", request.stop.len()),
        );
    }
    if let Some(stop) = request.stop.iter().find(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        return invalid(
            "stop",
            format!("must hold strings of 1 to {MAX_STOP_BYTES} bytes, not of {}", stop.len()),
        );
    }
    let check_len = |field, items, found: usize, limit: usize| match found {
        found if found > limit => {
            invalid(field, format!("has {found} {items}, the most allowed are {limit}"))
        }
        _ => Ok(()),
    };
    check_len("stop_token_ids", "tokens", request.stop_token_ids.len(), MAX_STOP_TOKENS)?;
    if let Some(Prompt::Messages(messages)) = &request.prompt {
        check_len("messages", "messages", messages.messages.len(), MAX_MESSAGES)?;
    }
    let biased = request.sampling.as_ref().map_or(0, |sampling| sampling.logit_bias.len());
    check_len("logit_bias", "tokens", biased, MAX_BIASED_TOKENS)
}

/// Checks the number of log probabilities of a prompt: each token's own, and its `logprobs` most likely alternatives.
fn check_prompt_logprobs(tokens: usize, logprobs: Option<u32>) -> Result<(), ServiceError> {
    let each = 1 + logprobs.unwrap_or(0) as usize;
    let found = tokens.saturating_mul(each);
    if found <= MAX_PROMPT_LOGPROBS {
        return Ok(());
    }
    let why = format!(
        "asks for {found} log probabilities, {each} for each of {tokens} tokens of the prompt; the most allowed are \
         {MAX_PROMPT_LOGPROBS}"
    );
    Err(ServiceError::invalid_argument("prompt_logprobs", why))
}

#[cfg(test)]
mod tests {
    use millm_proto::runtime::v1::{Message, Messages, Sampling};

    use super::*;

    #[test]
    fn errors_of_long_lists_name_the_size_and_the_limit() {
        let default = GenerateRequest::default;
        let messages = Messages { messages: vec![Message::default(); 10_001], ..Messages::default() };
        let logit_bias = (0..20_000).map(|id| (id, 1.0)).collect();
        let cases = [
            ("logprobs", "20", GenerateRequest { logprobs: Some(21), ..default() }),
            (
                "stop",
                "has 17 strings, the most allowed are 16",
                GenerateRequest { stop: vec!["x".into(); 17], ..default() },
            ),
            ("stop", "not of 1025", GenerateRequest { stop: vec!["x".repeat(1025)], ..default() }),
            (
                "stop_token_ids",
                "has 2000 tokens, the most allowed are 1024",
                GenerateRequest { stop_token_ids: vec![1; 2000], ..default() },
            ),
            (
                "messages",
                "has 10001 messages, the most allowed are 10000",
                GenerateRequest { prompt: Some(Prompt::Messages(messages)), ..default() },
            ),
            (
                "logit_bias",
                "has 20000 tokens, the most allowed are 16384",
                GenerateRequest {
                    sampling: Some(Sampling { logit_bias, ..Sampling::default() }),
                    ..default()
                },
            ),
        ];
        for (field, said, request) in cases {
            let error = check(&request).unwrap_err();
            assert_eq!(error.details["field"], field, "{}", error.message);
            assert!(error.message.contains(said), "{}", error.message);
        }
        assert!(check(&default()).is_ok());
    }

    #[test]
    fn the_log_probabilities_of_a_prompt_are_limited() {
        assert!(
            check_prompt_logprobs(1 << 18, None).is_ok() && check_prompt_logprobs(12_000, Some(20)).is_ok()
        );
        let error = check_prompt_logprobs(12_500, Some(20)).unwrap_err();
        assert_eq!(error.details["field"], "prompt_logprobs");
        assert!(error.message.contains("262500") && error.message.contains("262144"), "{}", error.message);
    }
}
