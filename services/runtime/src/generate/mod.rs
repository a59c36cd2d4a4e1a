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
use millm_proto::runtime::v1::{GenerateRequest, GenerateResponse, GenerateStart};
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

    let room = context.saturating_sub(prompt.len());
    let most = request.max_tokens.map_or(room, |most| room.min(most as usize));
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
    let (sink, mut events) = channel::channel(most, turn);
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
            let Some(event) = events.recv().await else {
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
        return invalid("stop", format!("must hold at most {MAX_STOPS} strings"));
    }
    if request.stop.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        return invalid("stop", format!("must hold strings of 1 to {MAX_STOP_BYTES} bytes"));
    }
    Ok(())
}
