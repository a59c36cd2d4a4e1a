//! One request while it runs: what of its prompt is in the cache, what it generated, and what its sink hears.

use std::ops::Range;

use crate::pages::SequenceId;
use crate::request::{EndReason, Event, Request, Sink, Token};
use crate::sampler::{Sampler, logprobs};

/// Rows of a prompt that are scored in one pass at most: their logits are the largest thing a pass makes.
const SCORED_ROWS: usize = 64;

pub(crate) struct Running {
    pub sequence: SequenceId,
    request: Request,
    sink: Box<dyn Sink>,
    sampler: Sampler,
    /// Prompt tokens whose keys and values are in the cache.
    prefilled: usize,
    /// The newest token, which the cache does not hold yet.
    newest: u32,
    generated: usize,
    /// Tokens that may be generated: what the request and the context allow.
    limit: usize,
    /// The prompt's tokens as far as they are scored.
    scored: Option<Vec<Token>>,
}

/// Why a request leaves the running batch.
pub(crate) enum Leave {
    End(EndReason),
    /// The receiver is gone: there is nobody to tell.
    Gone,
}

impl Running {
    pub fn new(sequence: SequenceId, request: Request, sink: Box<dyn Sink>, limit: usize) -> Self {
        let sampler = Sampler::new(request.sampling.clone(), &request.prompt);
        // Nothing predicts the first token.
        let first = || vec![Token { id: request.prompt[0], logprob: None, top: Vec::new() }];
        let scored = request.prompt_logprobs.then(first);
        Self { sequence, sink, sampler, prefilled: 0, newest: 0, generated: 0, limit, scored, request }
    }

    /// Prompt tokens that one pass may take now; 0 while decoding.
    pub fn prefill(&self) -> usize {
        let left = self.request.prompt.len() - self.prefilled;
        if self.scored.is_some() { left.min(SCORED_ROWS) } else { left }
    }

    pub fn scores_prompt(&self) -> bool {
        self.scored.is_some()
    }

    /// The newest token, which a decode step runs next.
    pub fn newest(&self) -> u32 {
        self.newest
    }

    /// The next `rows` tokens of the prompt.
    pub fn next_prompt_tokens(&self, rows: usize) -> &[u32] {
        &self.request.prompt[self.prefilled..self.prefilled + rows]
    }

    /// Whether these rows reach the prompt's end, so that a token follows.
    pub fn completes_prompt(&self, rows: usize) -> bool {
        self.prefilled + rows == self.request.prompt.len()
    }

    pub fn receiver_gone(&self) -> bool {
        self.sink.closed()
    }

    /// Takes in what a pass over `rows` prompt tokens (0 while decoding) gave; `logits` holds whole rows of
    /// `vocabulary`.
    pub fn absorb(&mut self, rows: usize, logits: &[f32], vocabulary: usize) -> Option<Leave> {
        if rows > 0 {
            let from = self.prefilled;
            self.prefilled += rows;
            self.score(from..self.prefilled, logits, vocabulary);
            if self.prefilled < self.request.prompt.len() {
                return None;
            }
            let started = Event::Started { prompt: self.scored.take() };
            if !self.sink.send(started) {
                return Some(Leave::Gone);
            }
            if self.limit == 0 {
                return Some(Leave::End(EndReason::Length));
            }
        }
        let last = &logits[logits.len() - vocabulary..];
        let id = self.sampler.sample(last);
        (self.newest, self.generated) = (id, self.generated + 1);
        if !self.request.ignore_eos && self.request.stop_token_ids.contains(&id) {
            return Some(Leave::End(EndReason::Eos(id)));
        }
        let token = scored(id, self.request.logprobs, last);
        if !self.sink.send(Event::Token(token)) {
            return Some(Leave::Gone);
        }
        (self.generated >= self.limit).then_some(Leave::End(EndReason::Length))
    }

    /// Each prompt row scores the token after it.
    fn score(&mut self, rows: Range<usize>, logits: &[f32], vocabulary: usize) {
        let Some(tokens) = &mut self.scored else { return };
        let top = self.request.logprobs.unwrap_or(0);
        for (row, logits) in rows.zip(logits.chunks_exact(vocabulary)) {
            if let Some(id) = self.request.prompt.get(row + 1) {
                tokens.push(scored(*id, Some(top), logits));
            }
        }
    }

    pub fn prompt_tokens(&self) -> usize {
        self.prefilled
    }

    pub fn generated(&self) -> usize {
        self.generated
    }

    /// The last event; its pages and its place are free by now.
    pub fn end(mut self, reason: EndReason) {
        end(&mut *self.sink, reason, self.request.prompt.len(), self.generated);
    }
}

/// Tells a sink that its request is over. A sink that panics has only itself to blame.
pub(crate) fn end(sink: &mut dyn Sink, reason: EndReason, prompt_tokens: usize, generated: usize) {
    let event = Event::End { reason, prompt_tokens, generated };
    let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sink.send(event)));
    if sent.is_err() {
        tracing::error!("a request's sink panicked at its end");
    }
}

fn scored(id: u32, top: Option<usize>, logits: &[f32]) -> Token {
    let Some(top) = top else {
        return Token { id, logprob: None, top: Vec::new() };
    };
    let (logprob, top) = logprobs(logits, id, top);
    Token { id, logprob: Some(logprob), top }
}
