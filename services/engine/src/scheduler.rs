//! Continuous batching: before each forward pass requests join and leave the running batch.
//!
//! Every decoding request has its row in every pass; what is left of a pass's budget is shared out evenly among the
//! prompts still being read, so a long prompt neither stops running answers nor keeps a short prompt waiting. A
//! request is admitted, in order of arrival, when a slot and all pages it may need are free.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::batch::{Batch, Logits};
use crate::cache::KvCache;
use crate::decoder::Decoder;
use crate::error::panic_message;
use crate::request::{EndReason, Request, Sink};
use crate::running::{Leave, Running, end};
use crate::stats::Counters;
use crate::taps::NoTaps;

pub(crate) struct Scheduler {
    decoder: Decoder,
    cache: KvCache,
    counters: Arc<Counters>,
    slots: usize,
    /// Prompt tokens in one pass at most.
    prefill_chunk: usize,
    context_length: usize,
    waiting: VecDeque<(Request, Box<dyn Sink>)>,
    running: Vec<Running>,
    batch: Batch,
    plan: Vec<Part>,
}

/// A running request's part in a pass.
struct Part {
    /// In `running`.
    index: usize,
    /// Prompt tokens; 0 is a decode row.
    rows: usize,
    /// Rows of logits.
    outputs: Range<usize>,
}

impl Scheduler {
    pub fn new(
        decoder: Decoder,
        cache: KvCache,
        counters: Arc<Counters>,
        (slots, prefill_chunk, context_length): (usize, usize, usize),
    ) -> Self {
        let scheduler = Self {
            decoder,
            cache,
            counters,
            slots,
            prefill_chunk,
            context_length,
            waiting: VecDeque::new(),
            running: Vec::new(),
            batch: Batch::default(),
            plan: Vec::new(),
        };
        scheduler.count();
        scheduler
    }

    pub fn idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// The request has been checked: its prompt fits the context and the vocabulary.
    pub fn enqueue(&mut self, request: Request, sink: Box<dyn Sink>) {
        self.waiting.push_back((request, sink));
        self.count();
    }

    /// Ends everything that runs or waits.
    pub fn cancel_all(&mut self) {
        while !self.running.is_empty() {
            self.leave(0, Leave::End(EndReason::Cancelled));
        }
        while let Some((request, mut sink)) = self.waiting.pop_front() {
            self.counters.left();
            self.count();
            end(&mut *sink, EndReason::Cancelled, request.prompt.len(), 0);
        }
    }

    /// One forward pass, when there is anything to run.
    pub fn step(&mut self) {
        self.forget_gone();
        self.admit();
        self.arrange();
        if self.batch.is_empty() {
            return;
        }
        let Self { decoder, cache, batch, running, plan, .. } = self;
        let vocabulary = decoder.spec().vocabulary_size;
        self.counters.forward_pass();
        let mut leaving = Vec::new();
        match caught(move || decoder.forward(batch, cache, &mut NoTaps)) {
            Ok(Ok(logits)) => {
                for part in plan.iter() {
                    let request = &mut running[part.index];
                    let logits = &logits[part.outputs.start * vocabulary..part.outputs.end * vocabulary];
                    let before = request.generated();
                    let left = caught(|| request.absorb(part.rows, logits, vocabulary))
                        .unwrap_or_else(|panic| Some(failed(&panic_message(&*panic))));
                    self.counters.tokens(part.rows, request.generated() - before);
                    leaving.extend(left.map(|leave| (part.index, leave)));
                }
            }
            Ok(Err(error)) => {
                leaving.extend(plan.iter().map(|part| (part.index, failed(&error.to_string()))));
            }
            Err(panic) => {
                let message = panic_message(&*panic);
                leaving.extend(plan.iter().map(|part| (part.index, failed(&message))));
            }
        }
        leaving.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, leave) in leaving {
            self.leave(index, leave);
        }
    }

    fn forget_gone(&mut self) {
        for index in (0..self.running.len()).rev() {
            if self.running[index].receiver_gone() {
                self.leave(index, Leave::Gone);
            }
        }
        let before = self.waiting.len();
        self.waiting.retain(|(_, sink)| !sink.closed());
        for _ in self.waiting.len()..before {
            self.counters.left();
        }
        self.count();
    }

    fn admit(&mut self) {
        while self.running.len() < self.slots {
            let Some((request, _)) = self.waiting.front() else { break };
            let prompt = request.prompt.len();
            let limit = request.max_tokens.unwrap_or(usize::MAX).min(self.context_length - prompt);
            // The last token generated never enters the cache.
            let Some(sequence) = self.cache.open(prompt + limit.saturating_sub(1)) else { break };
            if let Some((request, sink)) = self.waiting.pop_front() {
                self.running.push(Running::new(sequence, request, sink, limit));
            }
        }
        self.count();
    }

    /// Lays out the next pass.
    fn arrange(&mut self) {
        self.batch.clear();
        self.plan.clear();
        let mut shares: Vec<usize> = self.running.iter().map(Running::prefill).collect();
        share_out(&mut shares, self.prefill_chunk);
        for (index, request) in self.running.iter().enumerate().filter(|(_, request)| request.prefill() == 0)
        {
            let start = self.batch.outputs().len();
            self.batch.push_step(&self.cache, request.sequence, request.newest());
            self.plan.push(Part { index, rows: 0, outputs: start..self.batch.outputs().len() });
        }
        for (index, (request, rows)) in self.running.iter().zip(shares).enumerate() {
            if rows == 0 {
                continue;
            }
            let logits = match request {
                request if request.scores_prompt() => Logits::All,
                request if request.completes_prompt(rows) => Logits::Last,
                _ => Logits::None,
            };
            let start = self.batch.outputs().len();
            let tokens = request.next_prompt_tokens(rows);
            self.batch.push_part(&self.cache, request.sequence, tokens, request.prompt_tokens(), logits);
            self.plan.push(Part { index, rows, outputs: start..self.batch.outputs().len() });
        }
    }

    /// Frees pages and place first, so that whoever hears of the end finds them free.
    fn leave(&mut self, index: usize, leave: Leave) {
        let request = self.running.remove(index);
        self.cache.close(request.sequence);
        self.counters.left();
        self.count();
        match leave {
            Leave::End(reason) => {
                if let EndReason::Failed(why) = &reason {
                    tracing::error!(
                        why,
                        prompt_tokens = request.prompt_tokens(),
                        "a request failed in the engine"
                    );
                }
                request.end(reason);
            }
            Leave::Gone => {}
        }
    }

    fn count(&self) {
        let pages = self.cache.pages();
        self.counters.present(self.running.len(), self.waiting.len(), pages.free(), pages.total());
    }
}

/// What is behind an unwind is dropped: the requests concerned leave, and a pass begins by overwriting its buffers.
fn caught<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
}

fn failed(why: &str) -> Leave {
    Leave::End(EndReason::Failed(why.to_string()))
}

/// Cuts what each asks for down to shares of `budget` as even as can be.
fn share_out(asked: &mut [usize], mut budget: usize) {
    let mut order: Vec<usize> = (0..asked.len()).filter(|index| asked[*index] > 0).collect();
    // Those who ask for less than an even share leave the rest to the others; among equals, first come.
    order.sort_by_key(|index| asked[*index]);
    let mut left = order.len();
    for index in order {
        asked[index] = asked[index].min(budget.div_ceil(left));
        budget -= asked[index];
        left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_evenly() {
        let check = |mut asked: Vec<usize>, budget, expected: &[usize]| {
            share_out(&mut asked, budget);
            assert_eq!(asked, expected);
        };
        check(vec![2000, 0, 2000], 256, &[128, 0, 128]);
        check(vec![2000, 10], 256, &[246, 10]);
        check(vec![5, 6], 256, &[5, 6]);
        check(vec![9, 9, 9], 7, &[3, 2, 2]);
        check(vec![9, 9, 9], 2, &[1, 1, 0]);
        check(vec![], 7, &[]);
    }
}
