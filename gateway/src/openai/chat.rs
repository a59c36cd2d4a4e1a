//! `POST /v1/chat/completions`.

use std::{mem, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};
use futures::{Stream, StreamExt as _};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{GenerateRequest, Message, Messages, TokenLogprob, generate_request::Prompt};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Account, FINGERPRINT, Tally, Usage,
    bounds::{self, Asked, Collected},
    finish_reason, logprobs, prompt,
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
    let chat = Arc::new(Chat::read(Fields::read(request).await?)?);
    let choices = chat.settings.choices;
    bounds::check_sent(choices, Some(&chat.request(0)))?;
    let asked = chat.asked();
    if !chat.settings.stream {
        asked.check(&app).await?;
    }
    let asking = Arc::clone(&chat);
    let mut collected = Collected::new(asked, &app.held);
    let pieces = run::start(app, (0..choices).map(move |choice| asking.request(choice))).await?;
    if chat.settings.stream {
        return Ok(stream::answer(chat.chunks(pieces)));
    }
    let wholes = run::collect(pieces, choices as usize, &mut collected).await?;
    Ok(collected.answer(&chat.whole(&wholes))?)
}

/// The answer that is no stream.
#[derive(Serialize)]
struct Whole<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: Usage,
    system_fingerprint: &'static str,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    message: Value,
    logprobs: Option<logprobs::Chat<'a>>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Account>,
    choices: &'a [Delta<'a>],
}

#[derive(Serialize)]
struct Delta<'a> {
    index: usize,
    delta: Value,
    logprobs: Option<logprobs::Chat<'a>>,
    finish_reason: Option<&'static str>,
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

    fn asked(&self) -> Asked {
        Asked {
            generations: self.settings.choices as usize,
            max_tokens: self.max_tokens,
            logprobs: self.logprobs,
            field: if self.logprobs == Some(0) { "logprobs" } else { "top_logprobs" },
            echoed: 0,
        }
    }

    fn whole<'a>(&'a self, wholes: &'a [run::Whole]) -> Whole<'a> {
        let mut tally = Tally::default();
        let choice = |(index, whole): (usize, &'a run::Whole)| {
            tally.add(0, &whole.end);
            let (message, called) = self.message(&whole.text);
            let finish_reason = if called { "tool_calls" } else { finish_reason(&whole.end) };
            Choice { index, message, logprobs: self.logprobs_of(&whole.logprobs), finish_reason }
        };
        let choices = wholes.iter().enumerate().map(choice).collect();
        Whole {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: wholes.first().map_or("", |whole| &whole.start.handle),
            choices,
            usage: tally.usage(),
            system_fingerprint: FINGERPRINT,
        }
    }

    /// The message, and whether it calls a tool.
    fn message(&self, text: &str) -> (Value, bool) {
        if self.tools_json.is_empty() {
            return (json!({"role": "assistant", "content": text, "refusal": null}), false);
        }
        let mut listener = tools::Listener::default();
        let said = listener.hear(text);
        let (rest, calls) = listener.end();
        let text = said + &rest;
        let called = !calls.is_empty();
        let content = if text.is_empty() && called { Value::Null } else { text.into() };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if called {
            message["tool_calls"] = calls.into();
        }
        (message, called)
    }

    fn chunks(
        self: Arc<Self>,
        mut pieces: Pieces,
    ) -> impl Stream<Item = Result<String, ServiceError>> + Send {
        async_stream::try_stream! {
            let mut tally = Tally::default();
            let mut model = String::new();
            let mut listeners: Vec<tools::Listener> =
                (0..self.settings.choices).map(|_| tools::Listener::default()).collect();
            while let Some(piece) = pieces.next().await {
                let Piece { index, response } = piece?;
                let said = |delta: Value| Delta { index, delta, logprobs: None, finish_reason: None };
                if let Some(start) = response.start {
                    model = start.handle;
                    yield self.chunk(&model, said(json!({"role": "assistant", "content": "", "refusal": null})))?;
                }
                let text = if self.tools_json.is_empty() {
                    response.text
                } else {
                    listeners[index].hear(&response.text)
                };
                let scored = self.logprobs.is_some() && !response.logprobs.is_empty();
                if !text.is_empty() || scored {
                    let logprobs = if scored { self.logprobs_of(&response.logprobs) } else { None };
                    yield self.chunk(&model, Delta { logprobs, ..said(json!({"content": text})) })?;
                }
                if let Some(end) = response.end {
                    tally.add(0, &end);
                    let (rest, calls) = mem::take(&mut listeners[index]).end();
                    if !rest.is_empty() {
                        yield self.chunk(&model, said(json!({"content": rest})))?;
                    }
                    let reason = if calls.is_empty() { finish_reason(&end) } else { "tool_calls" };
                    if !calls.is_empty() {
                        yield self.chunk(&model, said(json!({"tool_calls": numbered(calls)})))?;
                    }
                    yield self.chunk(&model, Delta { finish_reason: Some(reason), ..said(json!({})) })?;
                }
            }
            if self.settings.include_usage {
                yield stream::text(&Chunk { usage: Some(Account::Settled(tally.usage())), ..self.frame(&model, &[]) })?;
            }
        }
    }

    fn chunk(&self, model: &str, delta: Delta<'_>) -> Result<String, ServiceError> {
        stream::text(&self.frame(model, &[delta]))
    }

    fn frame<'a>(&'a self, model: &'a str, choices: &'a [Delta<'a>]) -> Chunk<'a> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model,
            system_fingerprint: FINGERPRINT,
            usage: self.settings.include_usage.then_some(Account::Open),
            choices,
        }
    }

    fn logprobs_of<'a>(&self, tokens: &'a [TokenLogprob]) -> Option<logprobs::Chat<'a>> {
        self.logprobs.map(|top| logprobs::Chat { tokens, top: top as usize })
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
