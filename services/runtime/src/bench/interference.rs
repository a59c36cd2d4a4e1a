//! The interference of a long prompt with running streams: their inter-token latency while it is processed.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use millm_engine::{EndReason, Event, Request, SamplingParams};
use serde::Serialize;

use super::{
    engine::EngineBench,
    error::BenchError,
    workload::{JOINING_PROMPT, SHORT_PROMPT},
};

/// Streams that are running when the prompt comes.
const RUNNING_STREAMS: usize = 4;
/// The most tokens of each: enough to outlast the prompt, which is processed in chunks between the tokens.
const MAX_TOKENS: usize = 1500;

/// The time between two tokens of a stream while a long prompt is processed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct InterTokenLatency {
    /// The 99th percentile. Longer times are mostly caused by other load on the machine.
    pub p99_seconds: f64,
    /// The longest time.
    pub max_seconds: f64,
}

/// Measures the latency. Each round has prompts without a common prefix with earlier ones.
///
/// # Errors
///
/// Fails if the engine ends a request early.
pub(crate) fn measure(bench: &EngineBench, round: usize) -> Result<InterTokenLatency, BenchError> {
    let submit = |seed: usize, prompt: usize, tokens: usize| {
        bench.submit(Request {
            prompt: bench.prompt(prompt, 100 * round + seed),
            sampling: SamplingParams::greedy(),
            max_tokens: Some(tokens),
            ignore_eos: true,
            ..Request::default()
        })
    };
    let running = (0..RUNNING_STREAMS)
        .map(|stream| submit(20 + stream, SHORT_PROMPT, MAX_TOKENS))
        .collect::<Result<Vec<_>, _>>()?;
    let mut last = running.iter().map(next_token).collect::<Result<Vec<_>, _>>()?;
    let begin = Instant::now();
    let end = next_token(&submit(30, JOINING_PROMPT, 1)?)?;
    let mut latencies = Vec::new();
    for (events, last) in running.iter().zip(&mut last) {
        while *last < end {
            let next = next_token(events)?;
            if next > begin {
                latencies.push((next - *last).as_secs_f64());
            }
            *last = next;
        }
    }
    latencies.sort_by(f64::total_cmp);
    let (Some(p99), Some(max)) = (latencies.get(latencies.len() * 99 / 100), latencies.last()) else {
        return Err(BenchError::Ended("the prompt was processed before any stream had a token".to_owned()));
    };
    Ok(InterTokenLatency { p99_seconds: *p99, max_seconds: *max })
}

/// Waits for the next token and returns its time.
fn next_token(events: &Receiver<(Instant, Event)>) -> Result<Instant, BenchError> {
    let ended = |why: &str| Err(BenchError::Ended(why.to_owned()));
    for (time, event) in events {
        match event {
            Event::Token(_) => return Ok(time),
            Event::End { reason: EndReason::Failed(why), .. } => return ended(&why),
            Event::Started { .. } | Event::End { .. } => {}
        }
    }
    ended("it has no more tokens")
}
