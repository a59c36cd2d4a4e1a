//! miLLM's figures, measured through the engine's queue and scheduler as in a server.

use std::ops::AddAssign;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use millm_engine::{Device, EndReason, Engine, EngineOptions, Event, Request, SamplingParams, Sink};
use millm_model::Checkpoint;

use crate::devices::kernel_set;

use super::{
    error::BenchError,
    figures::Figures,
    options::BenchOptions,
    workload::{DECODE, DEEP_DECODE, DEPTH, MIN_CONTEXT, PREFILL, SHORT_PROMPT, STREAM_DECODE},
};

/// Tokens in the KV cache: enough for the longest prompt and the streams that run with it.
const MIN_KV_TOKENS: usize = 6 << 10;

/// Returns the engine's options for a benchmark.
pub(crate) fn options(options: &BenchOptions, device: Device) -> EngineOptions {
    EngineOptions {
        context_length: Some(MIN_CONTEXT),
        slots: options.streams,
        // As many tokens as a round fills, so that the used memory can be compared with the estimate.
        kv_tokens: Some(MIN_KV_TOKENS.max(2 * options.streams * (SHORT_PROMPT + STREAM_DECODE))),
        device,
        threads: options.threads,
        kernels: kernel_set(options.kernels),
        ..EngineOptions::default()
    }
}

/// A loaded engine.
pub(crate) struct EngineBench {
    engine: Engine,
    first_token: Duration,
}

impl EngineBench {
    /// Loads the model and generates the first token.
    ///
    /// # Errors
    ///
    /// Fails if the model cannot be loaded.
    pub fn load(path: &Path, options: &EngineOptions) -> Result<Self, BenchError> {
        let begin = Instant::now();
        let engine = Engine::load(&Checkpoint::open(path)?, options, &mut |_| {})?;
        let mut bench = Self { engine, first_token: Duration::ZERO };
        bench.run(1, SHORT_PROMPT, 1, 0)?;
        bench.first_token = begin.elapsed();
        Ok(bench)
    }

    /// Returns the bytes of the weights in memory.
    pub fn weight_bytes(&self) -> u64 {
        self.engine.weight_bytes()
    }

    /// Measures all figures. Each round has prompts without a common prefix with earlier ones.
    ///
    /// # Errors
    ///
    /// Fails if the engine refuses a request or ends it early.
    pub fn figures(&self, streams: usize, round: usize) -> Result<Figures, BenchError> {
        let first = |times: &[TokenTimes]| times.iter().map(|times| times.first).max().unwrap_or_default();
        let rest = |times: &[TokenTimes]| {
            let last = times.iter().map(|times| times.last).max().unwrap_or_default();
            last.saturating_sub(first(times))
        };
        let seed = 100 * round;
        let prefill = self.run(1, PREFILL, 1, seed + 1)?;
        let decode = self.run(1, SHORT_PROMPT, DECODE + 1, seed + 2)?;
        let together = self.run(streams, SHORT_PROMPT, STREAM_DECODE + 1, seed + 3)?;
        let deep = self.run(1, DEPTH, DEEP_DECODE + 1, seed + 4)?;
        Ok(Figures {
            prefill: rate(PREFILL, first(&prefill)),
            decode: rate(DECODE, rest(&decode)),
            decode_deep: rate(DEEP_DECODE, rest(&deep)),
            streams: rate(streams * STREAM_DECODE, rest(&together)),
            first_token_seconds: self.first_token.as_secs_f64(),
        })
    }

    /// Runs requests in parallel.
    fn run(
        &self,
        streams: usize,
        prompt: usize,
        tokens: usize,
        seed: usize,
    ) -> Result<Vec<TokenTimes>, BenchError> {
        let begin = Instant::now();
        let running = (0..streams)
            .map(|stream| {
                let request = Request {
                    prompt: self.prompt_from(7919 * seed + 977 * stream, prompt),
                    sampling: SamplingParams::greedy(),
                    max_tokens: Some(tokens),
                    ignore_eos: true,
                    ..Request::default()
                };
                self.submit(request)
            })
            .collect::<Result<Vec<_>, BenchError>>()?;
        running.into_iter().map(|events| TokenTimes::collect(begin, &events)).collect()
    }

    /// Runs a request and returns the rate of its tokens after the first.
    ///
    /// # Errors
    ///
    /// Fails if the engine refuses the request or ends it early.
    pub fn decode_rate(&self, request: Request) -> Result<DecodeRate, BenchError> {
        let begin = Instant::now();
        let TokenTimes { first, last, tokens } = TokenTimes::collect(begin, &self.submit(request)?)?;
        Ok(DecodeRate { tokens: tokens.saturating_sub(1), time: last.saturating_sub(first) })
    }

    /// Submits a request and returns a receiver of its events with their times.
    ///
    /// # Errors
    ///
    /// Fails if the engine refuses the request.
    pub fn submit(&self, request: Request) -> Result<Receiver<(Instant, Event)>, BenchError> {
        let (sender, events) = channel();
        self.engine.submit(request, Box::new(TimedSink(sender)))?;
        Ok(events)
    }

    /// Returns a prompt of `length` tokens without repetitions.
    pub fn prompt(&self, length: usize, seed: usize) -> Vec<u32> {
        self.prompt_from(7919 * seed, length)
    }

    fn prompt_from(&self, start: usize, length: usize) -> Vec<u32> {
        let vocabulary = self.engine.spec().vocabulary_size;
        (0..length).map(|i| ((start + 31 * i) % vocabulary) as u32).collect()
    }
}

/// A number of tokens, and the time that they took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DecodeRate {
    tokens: usize,
    time: Duration,
}

impl DecodeRate {
    /// Returns the tokens per second.
    pub fn rate(&self) -> f64 {
        rate(self.tokens, self.time)
    }
}

impl AddAssign for DecodeRate {
    fn add_assign(&mut self, more: Self) {
        self.tokens += more.tokens;
        self.time += more.time;
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64()
}

/// Sends each event with its time.
struct TimedSink(Sender<(Instant, Event)>);

impl Sink for TimedSink {
    fn send(&mut self, event: Event) -> bool {
        self.0.send((Instant::now(), event)).is_ok()
    }
}

/// The times of the first and the last token of a request, since its start.
struct TokenTimes {
    first: Duration,
    last: Duration,
    tokens: usize,
}

impl TokenTimes {
    fn collect(begin: Instant, events: &Receiver<(Instant, Event)>) -> Result<Self, BenchError> {
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
        let first = first.ok_or_else(|| BenchError::Ended("it generated no tokens".to_owned()))?;
        Ok(Self { first, last, tokens })
    }
}
