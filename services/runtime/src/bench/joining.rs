//! What a long prompt does to those who are being answered: how long it keeps them from their next token.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use millm_engine::{EndReason, Event, Request, Sampling};
use serde::Serialize;

use super::ours::Bench;
use super::{BenchError, SHORT};

/// Tokens of the prompt.
pub const JOINING: usize = 2000;
/// Answers that are being written when it comes.
const RUNNING: usize = 4;
/// Tokens of each at most: enough to go on while the prompt is read, a piece of it beside each token.
const ANSWER: usize = 1500;

/// Seconds between two tokens of an answer while the prompt is read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pauses {
    /// 99 of 100 are no longer. What is longer still is mostly the machine's doing.
    pub most: f64,
    pub longest: f64,
}

/// `round` makes prompts that no earlier one shares a beginning with.
pub fn pauses(bench: &Bench, round: usize) -> Result<Pauses, BenchError> {
    let submit = |seed: usize, prompt: usize, tokens: usize| {
        bench.submit(Request {
            prompt: bench.prompt(prompt, 100 * round + seed),
            sampling: Sampling::greedy(),
            max_tokens: Some(tokens),
            ignore_eos: true,
            ..Request::default()
        })
    };
    let running =
        (0..RUNNING).map(|stream| submit(20 + stream, SHORT, ANSWER)).collect::<Result<Vec<_>, _>>()?;
    let mut last = running.iter().map(token).collect::<Result<Vec<_>, _>>()?;
    let begin = Instant::now();
    let end = token(&submit(30, JOINING, 1)?)?;
    let mut pauses = Vec::new();
    for (events, last) in running.iter().zip(&mut last) {
        while *last < end {
            let next = token(events)?;
            if next > begin {
                pauses.push((next - *last).as_secs_f64());
            }
            *last = next;
        }
    }
    pauses.sort_by(f64::total_cmp);
    let (Some(most), Some(longest)) = (pauses.get(pauses.len() * 99 / 100), pauses.last()) else {
        return Err(BenchError::Ended("the prompt was read before any of them had a token".to_owned()));
    };
    Ok(Pauses { most: *most, longest: *longest })
}

/// When the next token came.
fn token(events: &Receiver<(Instant, Event)>) -> Result<Instant, BenchError> {
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
