//! What a long prompt does to those who are being answered: how long it keeps them from their next token.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use millm_engine::{EndReason, Event, Request, Sampling};

use super::ours::Bench;
use super::{BenchError, SHORT};

/// Tokens of the prompt.
pub const JOINING: usize = 2000;
/// Answers that are being written when it comes.
const RUNNING: usize = 4;
/// Tokens of each at most: enough to go on while the prompt is read, a piece of it beside each token.
const ANSWER: usize = 1500;

/// The longest time, in seconds, between two tokens of any answer while the prompt is read.
///
/// `round` makes prompts that no earlier one shares a beginning with.
pub fn longest_pause(bench: &Bench, round: usize) -> Result<f64, BenchError> {
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
    let mut longest = Duration::ZERO;
    for (events, last) in running.iter().zip(&mut last) {
        while *last < end {
            let next = token(events)?;
            if next > begin {
                longest = longest.max(next - *last);
            }
            *last = next;
        }
    }
    Ok(longest.as_secs_f64())
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
