//! The engine's figures, through its own queue and scheduler, as a server runs it.

use std::ops::AddAssign;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use millm_engine::{Device, EndReason, Engine, EngineOptions, Event, Request, Sampling, Sink};
use millm_model::Checkpoint;

use super::joining::JOINING;
use super::{BenchError, DECODE, DEEP_DECODE, DEPTH, Figures, PREFILL, Plan, SHORT, STREAM_DECODE};

/// Room for the longest prompt and those who are answered beside it.
const KV_TOKENS: usize = 6 << 10;

pub fn options(plan: &Plan, device: Device) -> EngineOptions {
    EngineOptions {
        context_length: Some((DEPTH + DEEP_DECODE).max(JOINING) + 1),
        slots: plan.streams,
        // As many as a round fills, so that what is taken can be held against the estimate.
        kv_tokens: Some(KV_TOKENS.max(2 * plan.streams * (SHORT + STREAM_DECODE))),
        device,
        threads: plan.threads,
        ..EngineOptions::default()
    }
}

pub struct Bench {
    engine: Engine,
    first_token: Duration,
}

impl Bench {
    pub fn load(path: &Path, options: &EngineOptions) -> Result<Self, BenchError> {
        let begin = Instant::now();
        let engine = Engine::load(&Checkpoint::open(path)?, options, &mut |_| {})?;
        let mut bench = Self { engine, first_token: Duration::ZERO };
        bench.answers(1, SHORT, 1, 0)?;
        bench.first_token = begin.elapsed();
        Ok(bench)
    }

    pub fn weight_bytes(&self) -> u64 {
        self.engine.weight_bytes()
    }

    /// `round` makes prompts that no earlier one shares a beginning with.
    pub fn figures(&self, streams: usize, round: usize) -> Result<Figures, BenchError> {
        let first = |answers: &[Answer]| answers.iter().map(|answer| answer.first).max().unwrap_or_default();
        let rest = |answers: &[Answer]| {
            let last = answers.iter().map(|answer| answer.last).max().unwrap_or_default();
            last.saturating_sub(first(answers))
        };
        let seed = 100 * round;
        let prefill = self.answers(1, PREFILL, 1, seed + 1)?;
        let decode = self.answers(1, SHORT, DECODE + 1, seed + 2)?;
        let together = self.answers(streams, SHORT, STREAM_DECODE + 1, seed + 3)?;
        let deep = self.answers(1, DEPTH, DEEP_DECODE + 1, seed + 4)?;
        Ok(Figures {
            prefill: rate(PREFILL, first(&prefill)),
            decode: rate(DECODE, rest(&decode)),
            decode_deep: rate(DEEP_DECODE, rest(&deep)),
            streams: rate(streams * STREAM_DECODE, rest(&together)),
            first_token_seconds: self.first_token.as_secs_f64(),
        })
    }

    /// Requests that begin together.
    fn answers(
        &self,
        streams: usize,
        prompt: usize,
        tokens: usize,
        seed: usize,
    ) -> Result<Vec<Answer>, BenchError> {
        let begin = Instant::now();
        let running = (0..streams)
            .map(|stream| {
                let request = Request {
                    prompt: self.prompt_from(7919 * seed + 977 * stream, prompt),
                    sampling: Sampling::greedy(),
                    max_tokens: Some(tokens),
                    ignore_eos: true,
                    ..Request::default()
                };
                self.submit(request)
            })
            .collect::<Result<Vec<_>, BenchError>>()?;
        running.into_iter().map(|events| Answer::gather(begin, &events)).collect()
    }

    /// How fast the tokens after the first come.
    pub fn pace(&self, request: Request) -> Result<Pace, BenchError> {
        let begin = Instant::now();
        let Answer { first, last, tokens } = Answer::gather(begin, &self.submit(request)?)?;
        Ok(Pace { tokens: tokens.saturating_sub(1), time: last.saturating_sub(first) })
    }

    /// When each event came, from now on.
    pub fn submit(&self, request: Request) -> Result<Receiver<(Instant, Event)>, BenchError> {
        let (sender, events) = channel();
        self.engine.submit(request, Box::new(Clock(sender)))?;
        Ok(events)
    }

    /// So many tokens without any repetition.
    pub fn prompt(&self, length: usize, seed: usize) -> Vec<u32> {
        self.prompt_from(7919 * seed, length)
    }

    fn prompt_from(&self, start: usize, length: usize) -> Vec<u32> {
        let vocabulary = self.engine.spec().vocabulary_size;
        (0..length).map(|i| ((start + 31 * i) % vocabulary) as u32).collect()
    }
}

/// Tokens, and the time they took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    tokens: usize,
    time: Duration,
}

impl Pace {
    pub fn rate(&self) -> f64 {
        rate(self.tokens, self.time)
    }
}

impl AddAssign for Pace {
    fn add_assign(&mut self, more: Self) {
        self.tokens += more.tokens;
        self.time += more.time;
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64()
}

/// Says when each event came.
struct Clock(Sender<(Instant, Event)>);

impl Sink for Clock {
    fn send(&mut self, event: Event) -> bool {
        self.0.send((Instant::now(), event)).is_ok()
    }
}

/// When the first and the last token came, since the beginning, and how many.
struct Answer {
    first: Duration,
    last: Duration,
    tokens: usize,
}

impl Answer {
    fn gather(begin: Instant, events: &Receiver<(Instant, Event)>) -> Result<Self, BenchError> {
        let (mut first, mut last, mut tokens) = (None, Duration::ZERO, 0);
        for (time, event) in events {
            match event {
                Event::Token(_) => {
                    last = time - begin;
                    tokens += 1;
                    first.get_or_insert(last);
                }
                Event::End { reason: EndReason::Failed(why) | EndReason::Unsatisfiable(why), .. } => {
                    return Err(BenchError::Ended(why));
                }
                Event::Started { .. } | Event::End { .. } => {}
            }
        }
        let first = first.ok_or_else(|| BenchError::Ended("it has no tokens".to_owned()))?;
        Ok(Self { first, last, tokens })
    }
}
