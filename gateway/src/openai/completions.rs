//! `POST /v1/completions`: text or token ids go on, with `echo` and log probabilities of the prompt for those who
//! score texts.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use futures::{Stream, StreamExt as _};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{
    DetokenizeRequest, GenerateRequest, GenerateStart, TokenIds, TokenLogprob, generate_request::Prompt,
};
use serde::{Serialize, Serializer};

use super::{
    Account, FINGERPRINT, Tally, Usage,
    bounds::{self, Asked, Collected},
    finish_reason,
    logprobs::Plain,
    prompt,
    run::{self, Piece, Pieces, Whole},
    sampling::{self, Settings},
    stream,
};
use crate::{
    app::{App, from_runtime},
    body::Fields,
    clock,
    failure::OpenAiFailure,
};

/// As OpenAI has it.
const DEFAULT_TOKENS: i64 = 16;

struct Completion {
    settings: Settings,
    prompts: Vec<Prompt>,
    /// The texts of the prompts, when they are to be repeated.
    echo: Option<Vec<String>>,
    max_tokens: u32,
    logprobs: Option<u32>,
    id: String,
    created: u64,
}

pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, OpenAiFailure> {
    let mut completion = Completion::read(Fields::read(request).await?)?;
    let count = bounds::generations(completion.prompts.len(), completion.settings.choices)?;
    let largest = completion.prompts.iter().max_by_key(|prompt| prompt.encoded_len());
    bounds::check_sent(
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
    let pieces = run::start(app, requests).await?;
    if completion.settings.stream {
        return Ok(stream::answer(completion.chunks(pieces)));
    }
    let wholes = run::collect(pieces, count, &mut collected).await?;
    Ok(collected.answer(&completion.whole(&wholes))?)
}

/// The answer that is no stream, or one piece of a stream.
#[derive(Serialize)]
struct Frame<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Account>,
}

#[derive(Serialize)]
struct Choice<'a> {
    text: Text<'a>,
    index: usize,
    logprobs: Option<Plain<'a>>,
    finish_reason: Option<&'static str>,
}

/// The prompt where it is repeated, and what was generated.
struct Text<'a>(&'a str, &'a str);

impl Text<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty() && self.1.is_empty()
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}{}", self.0, self.1))
    }
}

impl Completion {
    fn read(mut fields: Fields) -> Result<Self, ServiceError> {
        let settings = Settings::take(&mut fields)?;
        let prompts = prompt::prompts(&mut fields)?;
        fields.refuse(&["suffix"])?;
        let best_of = fields.integer("best_of", 1..=20)?;
        if best_of.is_some_and(|best_of| best_of != i64::from(settings.choices)) {
            return Err(ServiceError::invalid_argument("best_of", "must be the same as 'n'"));
        }
        let echo = fields.take("echo")?.unwrap_or(false);
        let least = i64::from(!echo);
        let max_tokens = fields.integer("max_tokens", least..=i64::from(i32::MAX))?.unwrap_or(DEFAULT_TOKENS);
        Ok(Self {
            settings,
            echo: echo.then(|| vec![String::new(); prompts.len()]),
            prompts,
            max_tokens: max_tokens as u32,
            logprobs: fields.integer("logprobs", 0..=20)?.map(|n| n as u32),
            id: format!("cmpl-{}", clock::fresh_id()),
            created: clock::unix_seconds(),
        })
    }

    /// Token ids are read as text by the model's tokenizer.
    async fn find_echoes(&mut self, app: &App) -> Result<(), ServiceError> {
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

    /// Each prompt for each choice: choice `c` of prompt `p` has the index `p * n + c`.
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

    /// Tokens of the prompt that are shown with their log probabilities.
    fn shown<'s>(&self, start: &'s GenerateStart) -> &'s [TokenLogprob] {
        if self.echo.is_some() && self.logprobs.is_some() { &start.prompt_logprobs } else { &[] }
    }

    fn whole<'a>(&'a self, wholes: &'a [Whole]) -> Answer<'a> {
        let mut tally = Tally::default();
        let choice = |(index, whole): (usize, &'a Whole)| {
            tally.add(self.prompt_of(index), &whole.end);
            let prompt = self.shown(&whole.start);
            let plain = |top| Plain { prompt, answer: &whole.logprobs, top: top as usize, start: 0 };
            Choice {
                text: Text(self.echo_of(index), &whole.text),
                index,
                logprobs: self.logprobs.map(plain),
                finish_reason: Some(finish_reason(&whole.end)),
            }
        };
        let choices = wholes.iter().enumerate().map(choice).collect();
        let model = wholes.first().map_or("", |whole| whole.start.handle.as_str());
        Answer { completion: self, model, choices, usage: tally.usage() }
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
                let plain = Plain {
                    prompt: start.map_or(&[], |start| self.shown(start)),
                    answer: &response.logprobs,
                    top: self.logprobs.unwrap_or(0) as usize,
                    start: offsets[index],
                };
                let news = plain.end() > offsets[index];
                offsets[index] = plain.end();
                let choice = Choice {
                    text: Text(start.map_or("", |_| self.echo_of(index)), &response.text),
                    index,
                    logprobs: (self.logprobs.is_some() && news).then_some(plain),
                    finish_reason: response.end.as_ref().map(finish_reason),
                };
                if !choice.text.is_empty() || choice.logprobs.is_some() || response.end.is_some() {
                    yield stream::text(&self.frame(&model, &[choice]))?;
                }
                if let Some(end) = &response.end {
                    tally.add(self.prompt_of(index), end);
                }
            }
            if self.settings.include_usage {
                yield stream::text(&Frame { usage: Some(Account::Settled(tally.usage())), ..self.frame(&model, &[]) })?;
            }
        }
    }

    fn frame<'a>(&'a self, model: &'a str, choices: &'a [Choice<'a>]) -> Frame<'a> {
        Frame {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage: self.settings.include_usage.then_some(Account::Open),
        }
    }
}

/// A frame that owns its choices.
struct Answer<'a> {
    completion: &'a Completion,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: Usage,
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let frame = self.completion.frame(self.model, &self.choices);
        Frame { usage: Some(Account::Settled(self.usage)), ..frame }.serialize(serializer)
    }
}
