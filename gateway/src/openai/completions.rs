//! `POST /v1/completions`: continues text or token ids, with `echo` and the log probabilities of the prompt for callers that
//! score texts.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};
use futures::{Stream, StreamExt as _};
use millm_api::openai::{
    answer::{self, ChunkUsage, CompletionChoice, EchoedText},
    logprobs::CompletionLogprobs,
    request::{CompletionParams, CompletionRequest, GenerationParams},
};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{
    DetokenizeRequest, GenerateRequest, GenerateStart, TokenIds, TokenLogprob, generate_request::Prompt,
};

use super::{
    FINGERPRINT, Tally, finish_reason,
    generations::{self, Piece, Pieces, Whole},
    memory_bounds::{self, Asked, Collected},
    number_ranges, prompt,
    sampling::{self, Settings},
    stream,
};
use crate::{
    body::JsonObject,
    error::Failure,
    ids,
    state::{AppState, from_runtime},
};

/// OpenAI's own default.
const DEFAULT_TOKENS: u32 = 16;

struct Completion {
    settings: Settings,
    prompts: Vec<Prompt>,
    /// The texts of the prompts, when they are repeated.
    echo: Option<Vec<String>>,
    max_tokens: u32,
    logprobs: Option<u32>,
    id: String,
    created: u64,
}

/// Continues prompts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    request_body = CompletionRequest,
    responses((status = 200, content(
        (answer::Completion<'static> = "application/json"),
        (answer::Completion<'static> = "text/event-stream"),
    )))
)]
pub async fn create(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, Failure> {
    let mut completion = Completion::read(JsonObject::read(request).await?)?;
    let count = memory_bounds::generations(completion.prompts.len(), completion.settings.choices)?;
    let largest = completion.prompts.iter().max_by_key(|prompt| prompt.encoded_len());
    memory_bounds::check_sent(
        completion.settings.choices,
        largest.map(|prompt| completion.request(prompt, 0)).as_ref(),
    )?;
    completion.find_echoes(&app).await?;
    let asked = completion.asked(count);
    if !completion.settings.stream {
        asked.check(&app).await?;
    }
    let completion = Arc::new(completion);
    let asking = Arc::clone(&completion);
    let requests = (0..count).map(move |index| asking.request_of(index));
    let mut collected = Collected::new(asked, &app.held);
    let pieces = generations::start(app, requests).await?;
    if completion.settings.stream {
        return Ok(stream::answer(completion.chunks(pieces)));
    }
    let wholes = generations::collect(pieces, count, &mut collected).await?;
    Ok(collected.answer(&completion.whole(&wholes))?)
}

impl Completion {
    fn read(object: JsonObject) -> Result<Self, ServiceError> {
        let settings = Settings::try_from(object.view::<GenerationParams>()?)?;
        object.refuse(&["suffix"])?;
        let params: CompletionParams = object.into_typed()?;
        let prompts = prompt::prompts(params.prompt)?;
        let best_of = number_ranges::integer("best_of", params.best_of, 1..=20)?;
        if best_of.is_some_and(|best_of| best_of != settings.choices) {
            return Err(ServiceError::invalid_argument("best_of", "must be the same as 'n'"));
        }
        let echo = params.echo.unwrap_or(false);
        let least = i64::from(!echo);
        let max_tokens =
            number_ranges::integer("max_tokens", params.max_tokens, least..=i64::from(i32::MAX))?;
        Ok(Self {
            settings,
            echo: echo.then(|| vec![String::new(); prompts.len()]),
            prompts,
            max_tokens: max_tokens.unwrap_or(DEFAULT_TOKENS),
            logprobs: number_ranges::integer("logprobs", params.logprobs, 0..=20)?,
            id: format!("cmpl-{}", ids::random_id()),
            created: ids::unix_seconds(),
        })
    }

    /// Fills in the texts to repeat. Token ids become text by the model's tokenizer.
    async fn find_echoes(&mut self, app: &AppState) -> Result<(), ServiceError> {
        let Some(texts) = &mut self.echo else { return Ok(()) };
        for (prompt, text) in self.prompts.iter().zip(texts) {
            match prompt {
                Prompt::Text(prompt) => text.clone_from(prompt),
                Prompt::TokenIds(TokenIds { ids }) => {
                    let model = self.settings.model.clone();
                    let request = DetokenizeRequest { model, token_ids: ids.clone() };
                    let answer = app.runtime().detokenize(request).await.map_err(from_runtime)?;
                    *text = answer.into_inner().text;
                }
                Prompt::Messages(_) => {}
            }
        }
        Ok(())
    }

    /// Returns the request of an index: choice `c` of prompt `p` has the index `p * n + c`.
    fn request_of(&self, index: usize) -> GenerateRequest {
        let choice = index as u32 % self.settings.choices;
        self.request(&self.prompts[self.prompt_of(index)], choice)
    }

    fn request(&self, prompt: &Prompt, choice: u32) -> GenerateRequest {
        let settings = &self.settings;
        let scored = self.echo.is_some() && self.logprobs.is_some();
        GenerateRequest {
            model: settings.model.clone(),
            prompt: Some(prompt.clone()),
            sampling: Some(sampling::for_choice(&settings.sampling, choice)),
            max_tokens: Some(self.max_tokens),
            stop: settings.stop.clone(),
            logprobs: self.logprobs,
            prompt_logprobs: scored || self.max_tokens == 0,
            ignore_eos: settings.ignore_eos,
            constraint: settings.constraint.clone(),
            speculate: settings.speculate,
            ..GenerateRequest::default()
        }
    }

    fn asked(&self, generations: usize) -> Asked {
        let echoed = self.echo.iter().flatten().map(String::len).sum::<usize>();
        Asked {
            generations,
            max_tokens: Some(self.max_tokens),
            logprobs: self.logprobs,
            field: "logprobs",
            echoed: echoed * self.settings.choices as usize,
        }
    }

    fn prompt_of(&self, index: usize) -> usize {
        index / self.settings.choices as usize
    }

    fn echo_of(&self, index: usize) -> &str {
        self.echo.as_ref().map_or("", |texts| texts[self.prompt_of(index)].as_str())
    }

    /// Returns the tokens of the prompt that are shown with their log probabilities.
    fn shown<'s>(&self, start: &'s GenerateStart) -> &'s [TokenLogprob] {
        if self.echo.is_some() && self.logprobs.is_some() { &start.prompt_logprobs } else { &[] }
    }

    fn whole<'a>(&'a self, wholes: &'a [Whole]) -> answer::Completion<'a> {
        let mut tally = Tally::default();
        let choice = |(index, whole): (usize, &'a Whole)| {
            tally.add(self.prompt_of(index), &whole.end);
            let prompt = self.shown(&whole.start);
            let logprobs =
                |top| CompletionLogprobs { prompt, answer: &whole.logprobs, top: top as usize, start: 0 };
            CompletionChoice {
                text: EchoedText { prompt: self.echo_of(index), generated: &whole.text },
                index,
                logprobs: self.logprobs.map(logprobs),
                finish_reason: Some(finish_reason(&whole.end)),
            }
        };
        let choices: Vec<_> = wholes.iter().enumerate().map(choice).collect();
        let model = wholes.first().map_or("", |whole| whole.start.handle.as_str());
        let usage = Some(ChunkUsage::Known(tally.usage()));
        answer::Completion { usage, ..self.frame(model, Cow::Owned(choices)) }
    }

    fn chunks(
        self: Arc<Self>,
        mut pieces: Pieces,
    ) -> impl Stream<Item = Result<String, ServiceError>> + Send {
        async_stream::try_stream! {
            let mut tally = Tally::default();
            let mut model = String::new();
            let mut offsets = vec![0; self.prompts.len() * self.settings.choices as usize];
            while let Some(piece) = pieces.next().await {
                let Piece { index, response } = piece?;
                let start = response.start.as_ref();
                if let Some(start) = start {
                    model.clone_from(&start.handle);
                }
                let logprobs = CompletionLogprobs {
                    prompt: start.map_or(&[], |start| self.shown(start)),
                    answer: &response.logprobs,
                    top: self.logprobs.unwrap_or(0) as usize,
                    start: offsets[index],
                };
                let has_news = logprobs.end() > offsets[index];
                offsets[index] = logprobs.end();
                let prompt = start.map_or("", |_| self.echo_of(index));
                let choice = CompletionChoice {
                    text: EchoedText { prompt, generated: &response.text },
                    index,
                    logprobs: (self.logprobs.is_some() && has_news).then_some(logprobs),
                    finish_reason: response.end.as_ref().map(finish_reason),
                };
                if !choice.text.is_empty() || choice.logprobs.is_some() || response.end.is_some() {
                    yield stream::text(&self.frame(&model, Cow::Borrowed(&[choice])))?;
                }
                if let Some(end) = &response.end {
                    tally.add(self.prompt_of(index), end);
                }
            }
            if self.settings.include_usage {
                let usage = Some(ChunkUsage::Known(tally.usage()));
                let frame = self.frame(&model, Cow::Borrowed(&[]));
                yield stream::text(&answer::Completion { usage, ..frame })?;
            }
        }
    }

    fn frame<'a>(
        &'a self,
        model: &'a str,
        choices: Cow<'a, [CompletionChoice<'a>]>,
    ) -> answer::Completion<'a> {
        answer::Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage: self.settings.include_usage.then_some(ChunkUsage::Unknown),
        }
    }
}
