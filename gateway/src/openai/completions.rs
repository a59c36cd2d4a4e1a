//! `POST /v1/completions`: text or token ids go on, with `echo` and log probabilities of the prompt for those who
//! score texts.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use futures::{Stream, StreamExt as _};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{
    DetokenizeRequest, GenerateRequest, GenerateStart, TokenIds, TokenLogprob, generate_request::Prompt,
};
use serde_json::{Value, json};

use super::{
    FINGERPRINT, Tally, finish_reason,
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
    completion.find_echoes(&app).await?;
    let requests = completion.requests();
    let count = requests.len();
    let pieces = run::start(app, requests).await?;
    if completion.settings.stream {
        return Ok(stream::answer(completion.chunks(pieces)));
    }
    let wholes = run::collect(pieces, count).await?;
    Ok(Json(completion.whole(&wholes)).into_response())
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
    fn requests(&self) -> Vec<GenerateRequest> {
        let settings = &self.settings;
        let scored = self.echo.is_some() && self.logprobs.is_some();
        let request = |prompt: &Prompt, choice| GenerateRequest {
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
        };
        let choices = 0..settings.choices;
        self.prompts
            .iter()
            .flat_map(|prompt| choices.clone().map(move |choice| request(prompt, choice)))
            .collect()
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

    fn whole(&self, wholes: &[Whole]) -> Value {
        let mut tally = Tally::default();
        let choices: Vec<Value> = wholes
            .iter()
            .enumerate()
            .map(|(index, whole)| {
                tally.add(self.prompt_of(index), &whole.end);
                let logprobs = self.logprobs.map_or(Value::Null, |top| {
                    let mut plain = Plain::default();
                    plain.add(self.shown(&whole.start), top as usize);
                    plain.add(&whole.logprobs, top as usize);
                    plain.into_value()
                });
                let text = format!("{}{}", self.echo_of(index), whole.text);
                json!({
                    "text": text,
                    "index": index,
                    "logprobs": logprobs,
                    "finish_reason": finish_reason(&whole.end),
                })
            })
            .collect();
        let mut answer = self.frame(wholes.first().map_or("", |whole| &whole.start.handle));
        answer["choices"] = choices.into();
        answer["usage"] = json!(tally.usage());
        answer
    }

    fn chunks(self, mut pieces: Pieces) -> impl Stream<Item = Result<Value, ServiceError>> + Send {
        async_stream::try_stream! {
            let mut tally = Tally::default();
            let mut model = String::new();
            let mut offsets = vec![0; self.prompts.len() * self.settings.choices as usize];
            while let Some(piece) = pieces.next().await {
                let Piece { index, response } = piece?;
                let mut plain = Plain::starting_at(offsets[index]);
                let mut text = response.text;
                if let Some(start) = &response.start {
                    model.clone_from(&start.handle);
                    plain.add(self.shown(start), self.logprobs.unwrap_or(0) as usize);
                    text.insert_str(0, self.echo_of(index));
                }
                plain.add(&response.logprobs, self.logprobs.unwrap_or(0) as usize);
                let news = plain.offset() > offsets[index];
                offsets[index] = plain.offset();
                let logprobs = if self.logprobs.is_some() && news { plain.into_value() } else { Value::Null };
                if !text.is_empty() || !logprobs.is_null() || response.end.is_some() {
                    let reason = response.end.as_ref().map(finish_reason);
                    yield self.chunk(&model, json!({
                        "text": text, "index": index, "logprobs": logprobs, "finish_reason": reason,
                    }));
                }
                if let Some(end) = response.end {
                    tally.add(self.prompt_of(index), &end);
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

    fn chunk(&self, model: &str, choice: Value) -> Value {
        let mut frame = self.frame(model);
        frame["choices"] = Value::from(vec![choice]);
        if self.settings.include_usage {
            frame["usage"] = Value::Null;
        }
        frame
    }

    fn frame(&self, model: &str) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": model,
            "system_fingerprint": FINGERPRINT,
        })
    }
}
