//! Generating: from a request to a stream of its answer.

mod answer;
mod channel;
mod constraint;
mod prompt;
mod sampling;
mod stop;

use std::{sync::Arc, time::Instant};

use async_stream::try_stream;
use futures::Stream;
use millm_engine::Request;
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{GenerateRequest, GenerateResponse, GenerateStart, generate_request::Prompt};
use tonic::Status;

use self::answer::Answer;
use crate::{
    failure,
    loader::{Resident, Turn},
};

/// As OpenAI has it.
const MAX_LOGPROBS: u32 = 20;
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
const MAX_STOP_TOKENS: usize = 1024;
const MAX_MESSAGES: usize = 10_000;
const MAX_BIASED: usize = 16_384;
/// A prompt's log probabilities are one message: each takes some hundred bytes with the token's text.
const MAX_PROMPT_LOGPROBS: usize = 1 << 18;

/// Takes a request on, with its turn; `handle` is what the model is called now. Errors before anything runs:
/// INVALID_ARGUMENT with the field, CONTEXT_LENGTH_EXCEEDED, QUEUE_FULL, MODEL_NOT_LOADED when it was made to leave.
/// Dropping the stream stops the generation.
pub async fn generate(
    resident: Arc<Resident>,
    turn: Turn,
    handle: String,
    request: GenerateRequest,
) -> Result<impl Stream<Item = Result<GenerateResponse, Status>> + Send, ServiceError> {
    let asked = Instant::now();
    check(&request)?;
    let language = Arc::clone(&resident.language);
    let sampling =
        sampling::merge(request.sampling.unwrap_or_default(), &language.defaults, language.vocabulary)?;
    let field = constraint::field(request.constraint.as_ref());
    let constraint = constraint::read(&language, request.constraint, &field).await?;
    let context = resident.context_length as usize;
    let prompt = prompt::tokens(&language, request.prompt, context).await?;

    if request.prompt_logprobs {
        check_prompt_logprobs(prompt.len(), request.logprobs)?;
    }
    let mut stop_token_ids = request.stop_token_ids;
    if !request.ignore_eos {
        stop_token_ids.extend(&language.eos_token_ids);
    }
    let start = GenerateStart {
        model_id: resident.id,
        handle: handle.clone(),
        prompt_tokens: prompt.len() as u32,
        prompt_token_ids: prompt.clone(),
        prompt_logprobs: Vec::new(),
    };
    let (sink, mut events) = channel::channel(turn);
    let submission = Request {
        prompt,
        sampling,
        max_tokens: request.max_tokens.map(|most| most as usize),
        stop_token_ids,
        // The model's own were left out above; the caller's hold all the same.
        ignore_eos: false,
        logprobs: request.logprobs.map(|top| top as usize),
        prompt_logprobs: request.prompt_logprobs,
        constraint,
        speculate: request.speculate.unwrap_or(resident.speculate) as usize,
    };
    resident.engine.submit(submission, sink).map_err(|error| failure::of_submit(&error, &handle))?;
    // From here on the stream must not keep the model in memory.
    drop(resident);

    let mut answer = Answer::new(language, (request.stop, field), start, asked);
    Ok(try_stream! {
        while !answer.ended() {
            let Some(event) = events.recv().await.map_err(Status::from)? else {
                Err(ServiceError::internal("the engine ended without an answer"))?;
                return;
            };
            for message in answer.absorb(event).map_err(Status::from)? {
                yield message;
            }
        }
    })
}

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
    let few = |field, things, found: usize, most: usize| match found {
        found if found > most => invalid(field, format!("has {found} {things}, the most allowed are {most}")),
        _ => Ok(()),
    };
    few("stop_token_ids", "tokens", request.stop_token_ids.len(), MAX_STOP_TOKENS)?;
    if let Some(Prompt::Messages(messages)) = &request.prompt {
        few("messages", "messages", messages.messages.len(), MAX_MESSAGES)?;
    }
    let biased = request.sampling.as_ref().map_or(0, |sampling| sampling.logit_bias.len());
    few("logit_bias", "tokens", biased, MAX_BIASED)
}

/// `logprobs` most likely ones beside each token's own.
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
    fn lists_are_bounded_with_what_was_found_and_is_allowed() {
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
    fn a_prompt_has_so_many_log_probabilities() {
        assert!(
            check_prompt_logprobs(1 << 18, None).is_ok() && check_prompt_logprobs(12_000, Some(20)).is_ok()
        );
        let error = check_prompt_logprobs(12_500, Some(20)).unwrap_err();
        assert_eq!(error.details["field"], "prompt_logprobs");
        assert!(error.message.contains("262500") && error.message.contains("262144"), "{}", error.message);
    }
}
