//! `POST /v1/chat/completions`.

use std::{borrow::Cow, mem, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};
use futures::{Stream, StreamExt as _};
use millm_api::openai::{
    answer::{
        AssistantMessage, ChatChoice, ChatCompletion, ChatCompletionChunk, ChunkChoice, ChunkUsage, Delta,
        FinishReason, ToolCall,
    },
    logprobs::ChatLogprobs,
    request::{ChatCompletionRequest, ChatParams, GenerationParams},
};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{GenerateRequest, Message, Messages, TokenLogprob, generate_request::Prompt};

use super::{
    FINGERPRINT, Tally, finish_reason,
    generations::{self, Piece, Pieces},
    memory_bounds::{self, Asked, Collected},
    number_ranges, prompt,
    sampling::{self, Settings},
    stream,
    tools::{self, CallParser, Tools},
};
use crate::{body::JsonObject, error::Failure, ids, state::AppState};

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

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    request_body = ChatCompletionRequest,
    responses((status = 200, content(
        (ChatCompletion<'static> = "application/json"),
        (ChatCompletionChunk<'static> = "text/event-stream"),
    )))
)]
pub async fn create(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, Failure> {
    let chat = Arc::new(Chat::read(JsonObject::read(request).await?)?);
    let choices = chat.settings.choices;
    memory_bounds::check_sent(choices, Some(&chat.request(0)))?;
    let asked = chat.asked();
    if !chat.settings.stream {
        asked.check(&app).await?;
    }
    let asking = Arc::clone(&chat);
    let mut collected = Collected::new(asked, &app.held);
    let pieces = generations::start(app, (0..choices).map(move |choice| asking.request(choice))).await?;
    if chat.settings.stream {
        return Ok(stream::answer(chat.chunks(pieces)));
    }
    let wholes = generations::collect(pieces, choices as usize, &mut collected).await?;
    Ok(collected.answer(&chat.whole(&wholes))?)
}

impl Chat {
    fn read(object: JsonObject) -> Result<Self, ServiceError> {
        let mut settings = Settings::try_from(object.view::<GenerationParams>()?)?;
        object.refuse(UNSUPPORTED)?;
        let params: ChatParams = object.into_typed()?;
        let messages = prompt::messages(params.messages.unwrap_or_default())?;
        check_modalities(params.modalities)?;
        let longest = 1..=i64::from(i32::MAX);
        let older = number_ranges::integer("max_tokens", params.max_tokens, longest.clone())?;
        let max_tokens =
            number_ranges::integer("max_completion_tokens", params.max_completion_tokens, longest)?;
        let wanted = params.logprobs.unwrap_or(false);
        let top = number_ranges::integer("top_logprobs", params.top_logprobs, 0..=20)?;
        if top.is_some() && !wanted {
            return Err(ServiceError::invalid_argument("top_logprobs", "needs 'logprobs' to be true"));
        }
        let Tools { json, required } =
            tools::of(params.tools.unwrap_or_default(), params.tool_choice.as_ref())?;
        if let (Some(_), Some(constraint)) = (&required, &settings.constraint) {
            let why = format!("cannot demand a call beside '{}'", constraint.field);
            return Err(ServiceError::invalid_argument("tool_choice", why));
        }
        settings.constraint = settings.constraint.or(required);
        Ok(Self {
            settings,
            messages,
            tools_json: json,
            max_tokens: max_tokens.or(older),
            logprobs: wanted.then_some(top.unwrap_or(0)),
            id: format!("chatcmpl-{}", ids::random_id()),
            created: ids::unix_seconds(),
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

    fn whole<'a>(&'a self, wholes: &'a [generations::Whole]) -> ChatCompletion<'a> {
        let mut tally = Tally::default();
        let choice = |(index, whole): (usize, &'a generations::Whole)| {
            tally.add(0, &whole.end);
            let message = self.message(&whole.text);
            let called = message.tool_calls.is_some();
            let finish_reason = if called { FinishReason::ToolCalls } else { finish_reason(&whole.end) };
            ChatChoice { index, message, logprobs: self.logprobs_of(&whole.logprobs), finish_reason }
        };
        let choices = wholes.iter().enumerate().map(choice).collect();
        ChatCompletion {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: wholes.first().map_or("", |whole| &whole.start.handle),
            choices,
            usage: tally.usage(),
            system_fingerprint: FINGERPRINT,
        }
    }

    fn message<'a>(&self, text: &'a str) -> AssistantMessage<'a> {
        let message =
            |content, tool_calls| AssistantMessage { role: "assistant", content, refusal: None, tool_calls };
        if self.tools_json.is_empty() {
            return message(Some(Cow::Borrowed(text)), None);
        }
        let mut parser = CallParser::default();
        let said = parser.push(text);
        let (rest, calls) = parser.end();
        let text = said + &rest;
        let calls = Some(calls).filter(|calls| !calls.is_empty());
        let only_calls = text.is_empty() && calls.is_some();
        message((!only_calls).then_some(Cow::Owned(text)), calls)
    }

    fn chunks(
        self: Arc<Self>,
        mut pieces: Pieces,
    ) -> impl Stream<Item = Result<String, ServiceError>> + Send {
        async_stream::try_stream! {
            let mut tally = Tally::default();
            let mut model = String::new();
            let mut parsers: Vec<CallParser> =
                (0..self.settings.choices).map(|_| CallParser::default()).collect();
            while let Some(piece) = pieces.next().await {
                let Piece { index, response } = piece?;
                let news = |delta: Delta| ChunkChoice { index, delta, logprobs: None, finish_reason: None };
                if let Some(start) = response.start {
                    model = start.handle;
                    yield self.chunk(&model, news(first_delta()))?;
                }
                let text = if self.tools_json.is_empty() {
                    response.text
                } else {
                    parsers[index].push(&response.text)
                };
                let scored = self.logprobs.is_some() && !response.logprobs.is_empty();
                if !text.is_empty() || scored {
                    let logprobs = if scored { self.logprobs_of(&response.logprobs) } else { None };
                    yield self.chunk(&model, ChunkChoice { logprobs, ..news(text_delta(text)) })?;
                }
                if let Some(end) = response.end {
                    tally.add(0, &end);
                    let (rest, calls) = mem::take(&mut parsers[index]).end();
                    if !rest.is_empty() {
                        yield self.chunk(&model, news(text_delta(rest)))?;
                    }
                    let reason = if calls.is_empty() { finish_reason(&end) } else { FinishReason::ToolCalls };
                    if !calls.is_empty() {
                        let delta = Delta { tool_calls: Some(numbered(calls)), ..Delta::default() };
                        yield self.chunk(&model, news(delta))?;
                    }
                    let last = ChunkChoice { finish_reason: Some(reason), ..news(Delta::default()) };
                    yield self.chunk(&model, last)?;
                }
            }
            if self.settings.include_usage {
                let usage = Some(ChunkUsage::Known(tally.usage()));
                yield stream::text(&ChatCompletionChunk { usage, ..self.frame(&model, &[]) })?;
            }
        }
    }

    fn chunk(&self, model: &str, choice: ChunkChoice<'_>) -> Result<String, ServiceError> {
        stream::text(&self.frame(model, &[choice]))
    }

    fn frame<'a>(&'a self, model: &'a str, choices: &'a [ChunkChoice<'a>]) -> ChatCompletionChunk<'a> {
        ChatCompletionChunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model,
            system_fingerprint: FINGERPRINT,
            usage: self.settings.include_usage.then_some(ChunkUsage::Unknown),
            choices,
        }
    }

    fn logprobs_of<'a>(&self, tokens: &'a [TokenLogprob]) -> Option<ChatLogprobs<'a>> {
        self.logprobs.map(|top| ChatLogprobs { tokens, top: top as usize })
    }
}

fn first_delta() -> Delta {
    Delta { role: Some("assistant"), content: Some(String::new()), refusal: Some(()), tool_calls: None }
}

fn text_delta(text: String) -> Delta {
    Delta { content: Some(text), ..Delta::default() }
}

/// Returns the calls with their numbers, as streams have them.
fn numbered(calls: Vec<ToolCall>) -> Vec<ToolCall> {
    calls.into_iter().enumerate().map(|(n, call)| ToolCall { index: Some(n), ..call }).collect()
}

/// Answers are text: other media are refused.
fn check_modalities(modalities: Option<Vec<String>>) -> Result<(), ServiceError> {
    if modalities.unwrap_or_default().iter().any(|modality| modality != "text") {
        return Err(ServiceError::invalid_argument("modalities", "must be 'text' only"));
    }
    Ok(())
}
