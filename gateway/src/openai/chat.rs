//! `POST /v1/chat/completions`.

use std::{mem, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use futures::{Stream, StreamExt as _};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{GenerateRequest, Message, Messages, TokenLogprob, generate_request::Prompt};
use serde_json::{Value, json};

use super::{
    FINGERPRINT, Tally, finish_reason, logprobs, prompt,
    run::{self, Piece, Pieces},
    sampling::{self, Settings},
    stream, tools,
};
use crate::{app::App, body::Fields, clock, failure::OpenAiFailure};

const UNSUPPORTED: &[&str] = &[
    "audio",
    "chat_template",
    "chat_template_kwargs",
    "function_call",
    "functions",
    "prediction",
    "web_search_options",
];

struct Chat {
    settings: Settings,
    messages: Vec<Message>,
    tools_json: String,
    max_tokens: Option<u32>,
    /// For each token, its own log probability and those of so many others.
    logprobs: Option<u32>,
    id: String,
    created: u64,
}

pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, OpenAiFailure> {
    let chat = Chat::read(Fields::read(request).await?)?;
    let choices = chat.settings.choices;
    let pieces = run::start(app, (0..choices).map(|choice| chat.request(choice)).collect()).await?;
    if chat.settings.stream {
        return Ok(stream::answer(chat.chunks(pieces)));
    }
    let wholes = run::collect(pieces, choices as usize).await?;
    Ok(Json(chat.whole(wholes)).into_response())
}

impl Chat {
    fn read(mut fields: Fields) -> Result<Self, ServiceError> {
        let mut settings = Settings::take(&mut fields)?;
        let messages = prompt::messages(&mut fields)?;
        fields.refuse(UNSUPPORTED)?;
        only_text(&mut fields)?;
        let longest = 1..=i64::from(i32::MAX);
        let older = fields.integer("max_tokens", longest.clone())?;
        let max_tokens = fields.integer("max_completion_tokens", longest)?.or(older);
        let wanted = fields.take("logprobs")?.unwrap_or(false);
        let top = fields.integer("top_logprobs", 0..=20)?;
        if top.is_some() && !wanted {
            return Err(ServiceError::invalid_argument("top_logprobs", "needs 'logprobs' to be true"));
        }
        let tools::Offer { tools_json, demanded } = tools::take(&mut fields)?;
        if let (Some(_), Some(constraint)) = (&demanded, &settings.constraint) {
            let why = format!("cannot demand a call beside '{}'", constraint.field);
            return Err(ServiceError::invalid_argument("tool_choice", why));
        }
        settings.constraint = settings.constraint.or(demanded);
        Ok(Self {
            settings,
            messages,
            tools_json,
            max_tokens: max_tokens.map(|n| n as u32),
            logprobs: wanted.then_some(top.unwrap_or(0) as u32),
            id: format!("chatcmpl-{}", clock::fresh_id()),
            created: clock::unix_seconds(),
        })
    }

    fn request(&self, choice: u32) -> GenerateRequest {
        let messages = Messages { messages: self.messages.clone(), tools_json: self.tools_json.clone() };
        GenerateRequest {
            model: self.settings.model.clone(),
            prompt: Some(Prompt::Messages(messages)),
            sampling: Some(sampling::for_choice(&self.settings.sampling, choice)),
            max_tokens: self.max_tokens,
            stop: self.settings.stop.clone(),
            logprobs: self.logprobs,
            ignore_eos: self.settings.ignore_eos,
            constraint: self.settings.constraint.clone(),
            speculate: self.settings.speculate,
            ..GenerateRequest::default()
        }
    }

    fn whole(&self, wholes: Vec<run::Whole>) -> Value {
        let mut tally = Tally::default();
        let mut model = String::new();
        let choices: Vec<Value> = wholes
            .into_iter()
            .enumerate()
            .map(|(index, whole)| {
                tally.add(0, &whole.end);
                model.clone_from(&whole.start.handle);
                let (text, calls) = if self.tools_json.is_empty() {
                    (whole.text, Vec::new())
                } else {
                    let mut listener = tools::Listener::default();
                    let said = listener.hear(&whole.text);
                    let (rest, calls) = listener.end();
                    (said + &rest, calls)
                };
                let reason = if calls.is_empty() { finish_reason(&whole.end) } else { "tool_calls" };
                let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() };
                let mut message = json!({"role": "assistant", "content": content, "refusal": null});
                if !calls.is_empty() {
                    message["tool_calls"] = calls.into();
                }
                json!({
                    "index": index,
                    "message": message,
                    "logprobs": self.logprobs_value(&whole.logprobs),
                    "finish_reason": reason,
                })
            })
            .collect();
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": model,
            "choices": choices,
            "usage": tally.usage(),
            "system_fingerprint": FINGERPRINT,
        })
    }

    fn chunks(self, mut pieces: Pieces) -> impl Stream<Item = Result<Value, ServiceError>> + Send {
        async_stream::try_stream! {
            let mut tally = Tally::default();
            let mut model = String::new();
            let mut listeners: Vec<tools::Listener> =
                (0..self.settings.choices).map(|_| tools::Listener::default()).collect();
            while let Some(piece) = pieces.next().await {
                let Piece { index, response } = piece?;
                if let Some(start) = response.start {
                    model = start.handle;
                    let delta = json!({"role": "assistant", "content": "", "refusal": null});
                    yield self.chunk(&model, index, &delta, &[], None);
                }
                let text = if self.tools_json.is_empty() {
                    response.text
                } else {
                    listeners[index].hear(&response.text)
                };
                if !text.is_empty() || (self.logprobs.is_some() && !response.logprobs.is_empty()) {
                    yield self.chunk(&model, index, &json!({"content": text}), &response.logprobs, None);
                }
                if let Some(end) = response.end {
                    tally.add(0, &end);
                    let (rest, calls) = mem::take(&mut listeners[index]).end();
                    if !rest.is_empty() {
                        yield self.chunk(&model, index, &json!({"content": rest}), &[], None);
                    }
                    let reason = if calls.is_empty() { finish_reason(&end) } else { "tool_calls" };
                    if !calls.is_empty() {
                        yield self.chunk(&model, index, &json!({"tool_calls": numbered(calls)}), &[], None);
                    }
                    yield self.chunk(&model, index, &json!({}), &[], Some(reason));
                }
            }
            if self.settings.include_usage {
                let mut last = self.frame(&model);
                last["choices"] = json!([]);
                last["usage"] = json!(tally.usage());
                yield last;
            }
        }
    }

    fn frame(&self, model: &str) -> Value {
        let mut frame = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": model,
            "system_fingerprint": FINGERPRINT,
        });
        if self.settings.include_usage {
            frame["usage"] = Value::Null;
        }
        frame
    }

    fn chunk(
        &self,
        model: &str,
        index: usize,
        delta: &Value,
        tokens: &[TokenLogprob],
        reason: Option<&str>,
    ) -> Value {
        let logprobs = if tokens.is_empty() { Value::Null } else { self.logprobs_value(tokens) };
        let mut frame = self.frame(model);
        frame["choices"] =
            json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]);
        frame
    }

    fn logprobs_value(&self, tokens: &[TokenLogprob]) -> Value {
        self.logprobs.map_or(
            Value::Null,
            |top| json!({"content": logprobs::chat(tokens, top as usize), "refusal": null}),
        )
    }
}

/// In a stream each call says which one it is.
fn numbered(calls: Vec<Value>) -> Vec<Value> {
    let number = |(n, mut call): (usize, Value)| {
        call["index"] = n.into();
        call
    };
    calls.into_iter().enumerate().map(number).collect()
}

/// Answers are text: other media are refused.
fn only_text(fields: &mut Fields) -> Result<(), ServiceError> {
    let modalities: Vec<String> = fields.take("modalities")?.unwrap_or_default();
    if modalities.iter().any(|modality| modality != "text") {
        return Err(ServiceError::invalid_argument("modalities", "must be 'text' only"));
    }
    Ok(())
}
