//! The scheduler: continuous batching. Sequences join and leave the running batch before each forward pass. While
//! sequences are decoding, prefill runs in a separate pass, some layers at a time ([`layerwise_prefill`]).
//!
//! Requests are admitted in order of arrival, when a slot is free and there are KV blocks for the tokens they have so
//! far. Answers then grow block by block. No request fails for lack of KV blocks: when they run out, the youngest
//! sequence is preempted. It releases its blocks and returns to the head of the queue with its text, to be recomputed
//! later, so the oldest always makes progress.
//!
//! Captures ([`capture`]) run when requests leave time and blocks, and lose their blocks before any request does.

pub(crate) mod core_budget;
pub(crate) mod limits;
pub(crate) mod sequence;

mod batch_plan;
mod capture;
mod capture_plan;
mod layerwise_prefill;
mod pass_output;
mod prompt_lookup;
mod running;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capture::{CaptureOutput, CaptureRequest};
use crate::error::from_panic;
use crate::forward::Forward;
use crate::forward::batch::Batch;
use crate::forward::hooks::NoHooks;
use crate::kv_cache::{BLOCK_SIZE, BlockPool, SequenceId};
use crate::request::{EndReason, Request, Sink};
use crate::scheduler::batch_plan::{PassKind, PlannedRows, plan_pass};
use crate::scheduler::capture::{CaptureContext, Captures, Effort, Ended, Progress};
use crate::scheduler::layerwise_prefill::{LayerTiming, PartialPrefill};
use crate::scheduler::limits::Limits;
use crate::scheduler::pass_output::{PassOutput, caught, finishes};
use crate::scheduler::running::Running;
use crate::scheduler::sequence::{Finish, NextRows, Sequence};
use crate::stats::Counters;

/// The maximum time that a step waits for constraints if no sequence can continue without them. Commands wait as
/// long.
const CONSTRAINT_WAIT: Duration = Duration::from_millis(5);
/// The maximum time that a step waits, at its end, for constraints to tell which answers are complete.
const COMPLETION_WAIT: Duration = Duration::from_micros(300);

/// All requests of an engine, its model and its KV blocks.
pub(crate) struct Scheduler {
    model: Box<dyn Forward>,
    blocks: BlockPool,
    counters: Arc<Counters>,
    limits: Limits,
    /// In order of arrival. Every waiting sequence is younger than every running one.
    waiting: VecDeque<Sequence>,
    /// In order of arrival.
    running: Vec<Running>,
    batch: Batch,
    /// The prefill pass that has begun. It is dropped when one of its sequences leaves: nothing of it is in the cache
    /// yet.
    prefill: Option<PartialPrefill>,
    /// The last prefill pass was dropped. The next one runs all layers at once: requests that come and go must not
    /// keep others from being prefilled.
    prefill_dropped: bool,
    timing: LayerTiming,
    captures: Captures,
}

impl Scheduler {
    pub fn new(model: Box<dyn Forward>, blocks: BlockPool, counters: Arc<Counters>, limits: Limits) -> Self {
        let scheduler = Self {
            model,
            blocks,
            counters,
            limits,
            waiting: VecDeque::new(),
            running: Vec::new(),
            batch: Batch::default(),
            prefill: None,
            prefill_dropped: false,
            timing: LayerTiming::default(),
            captures: Captures::default(),
        };
        scheduler.publish_state();
        scheduler
    }

    /// Returns whether no request and no capture runs or waits.
    pub fn is_idle(&self) -> bool {
        !self.has_requests() && self.captures.is_empty()
    }

    fn has_requests(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty()
    }

    /// Adds a request to the queue. It must have been checked: its prompt fits the context and the vocabulary.
    pub fn enqueue(&mut self, request: Request, sink: Box<dyn Sink>) {
        self.waiting.push_back(Sequence::new(request, sink, self.limits.context_length));
        self.publish_state();
    }

    /// Adds a capture to the queue. It must have been checked.
    pub fn enqueue_capture(&mut self, request: CaptureRequest, output: CaptureOutput) {
        self.captures.enqueue(request, output, &*self.model);
    }

    /// Cancels all requests and captures.
    pub fn cancel_all(&mut self) {
        while !self.running.is_empty() {
            self.finish(0, Finish::End(EndReason::Cancelled));
        }
        while let Some(sequence) = self.waiting.pop_front() {
            self.counters.finish_request();
            self.publish_state();
            sequence.end(EndReason::Cancelled);
        }
        let cancelled = self.captures.cancel_all(&mut self.blocks);
        self.end_captures(cancelled);
    }

    /// Runs one forward pass, if there is anything to run, and with it some layers of a prefill pass or of a capture.
    /// Returns `false` if there is nothing but captures that wait for room in their sinks.
    pub fn step(&mut self) -> bool {
        let closed = self.captures.remove_closed(&mut self.blocks);
        self.end_captures(closed);
        self.drop_disconnected();
        self.resume_paused(Instant::now());
        self.admit();
        self.reserve_next_tokens();
        self.share_prefixes();
        let ran = self.run_passes();
        if !ran {
            // No sequence can continue before a constraint has returned the allowed tokens.
            self.resume_paused(Instant::now() + CONSTRAINT_WAIT);
        }
        self.check_completions();
        ran || self.has_requests()
    }

    /// Runs passes of requests, then layers of a capture if no prompt is left to prefill. Returns whether there was
    /// anything to run.
    fn run_passes(&mut self) -> bool {
        let next: Vec<NextRows> =
            self.running.iter().map(|running| running.next_rows(&self.blocks)).collect();
        let decoding = next.iter().any(|next| matches!(next, NextRows::Decode | NextRows::Recompute(_)));
        let prefilling =
            self.prefill.is_some() || next.iter().any(|next| matches!(next, NextRows::Prefill(_)));
        let whole = self.limits.runs_whole_passes(self.model.spec().layers);
        let begin = Instant::now();
        if prefilling && (self.prefill.is_some() || (decoding && !whole)) {
            if decoding {
                self.run_pass(PassKind::Decode);
                self.note_decode(begin.elapsed());
            }
            return self.run_prefill_layers(decoding) || decoding;
        }
        let ran = self.run_pass(PassKind::Mixed);
        if prefilling {
            return ran;
        }
        if decoding {
            self.note_decode(begin.elapsed());
        }
        let effort = if self.running.is_empty() { Effort::Alone } else { Effort::BesideDecode };
        self.run_capture(effort) || ran
    }

    /// Notes the duration of a decode pass.
    fn note_decode(&mut self, time: Duration) {
        self.timing.decoded(time);
        self.captures.decoded(time);
    }

    /// Runs layers of a capture. Returns whether there was anything to run.
    fn run_capture(&mut self, effort: Effort) -> bool {
        if self.captures.is_empty() {
            return false;
        }
        let free_blocks = self.blocks_for_captures();
        let Self { model, blocks, counters, limits, captures, .. } = self;
        let model = &mut **model;
        let progress =
            captures.run(effort, &mut CaptureContext { model, blocks, counters, limits, free_blocks });
        self.publish_state();
        match progress {
            Progress::None => return false,
            Progress::Ran => {}
            Progress::Ended(ended) => self.end_captures(vec![ended]),
        }
        true
    }

    /// Returns the number of blocks that requests leave. Each running sequence can get one more. A request that waits
    /// beside a free slot lacks blocks.
    fn blocks_for_captures(&self) -> usize {
        if !self.waiting.is_empty() && self.running.len() < self.limits.slots {
            return 0;
        }
        self.blocks.available_blocks().saturating_sub(self.running.len())
    }

    /// Tells the sinks of captures that have left. Whoever receives an end finds the place and the blocks free.
    fn end_captures(&mut self, ended: Vec<Ended>) {
        for ended in ended {
            self.counters.finish_capture();
            self.publish_state();
            ended.send();
        }
    }

    /// Runs a pass with all layers. Returns whether there was anything to run.
    fn run_pass(&mut self, kind: PassKind) -> bool {
        let Self { running, blocks, batch, limits, .. } = self;
        let planned = plan_pass(running, blocks, kind, limits.prefill, batch);
        if planned.is_empty() {
            return false;
        }
        self.counters.forward_pass();
        let finished = self.forward(&planned);
        self.finish_all(finished);
        true
    }

    /// Resumes paused sequences whose constraints have answered, waiting for that until `until`.
    fn resume_paused(&mut self, until: Instant) {
        let mut finished = Vec::new();
        for (index, running) in self.running.iter_mut().enumerate().rev() {
            let sequence = &mut running.sequence;
            if !sequence.is_paused() && !sequence.awaits_completion() {
                continue;
            }
            let before = sequence.generated();
            finished.extend(finishes(|| sequence.resume(until)).map(|finish| (index, finish)));
            self.counters.generated(sequence.generated() - before);
        }
        self.finish_all(finished);
    }

    /// Finishes the sequences whose constraints call them complete. Most constraints answer within microseconds, and
    /// an answer that comes here saves a pass.
    fn check_completions(&mut self) {
        let until = Instant::now() + COMPLETION_WAIT;
        let mut finished = Vec::new();
        for (index, running) in self.running.iter_mut().enumerate().rev() {
            let finish = finishes(|| running.sequence.check_completion(until));
            finished.extend(finish.map(|finish| (index, finish)));
        }
        self.finish_all(finished);
    }

    /// Runs layers of the prefill pass that has begun, or of a new one: some of them while sequences are decoding,
    /// else all. Returns whether there was anything to run.
    fn run_prefill_layers(&mut self, decoding: bool) -> bool {
        // The model keeps the residual of one suspended pass.
        if self.prefill.is_none() && self.captures.is_suspended() {
            if self.run_capture(Effort::BeforePrefill) {
                return true;
            }
            self.captures.drop_pass(&mut self.blocks);
        }
        let Some(mut prefill) = self.prefill.take().or_else(|| self.begin_prefill()) else { return false };
        let (rows, limit) = (prefill.rows(), self.limits.prefill_layers_per_decode);
        let at_once = std::mem::take(&mut self.prefill_dropped) || !decoding;
        let count =
            if at_once { usize::MAX } else { limit.unwrap_or_else(|| self.timing.layers_per_decode(rows)) };
        let begin = Instant::now();
        let layers = prefill.take_layers(count, self.model.spec().layers);
        let Self { model, blocks, running, counters, timing, .. } = self;
        let count = layers.len();
        let outcome = caught(|| {
            let logits = model.forward_layers(&prefill.batch, layers, blocks, &mut NoHooks);
            logits.map(|logits| logits.is_some())
        });
        let outcome = match outcome.unwrap_or_else(|panic| Err(from_panic(panic))) {
            // The last layers are not measured, because they include the logits.
            Ok(false) => {
                timing.prefilled(rows, count, begin.elapsed());
                self.prefill = Some(prefill);
                return true;
            }
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        counters.forward_pass();
        let planned = prefill.into_planned(running);
        let until = grace_period(begin);
        let model = &mut **model;
        let finished = PassOutput { model, running, blocks, counters, until }.apply(&planned, outcome);
        self.finish_all(finished);
        true
    }

    fn begin_prefill(&mut self) -> Option<PartialPrefill> {
        let mut batch = Batch::default();
        let Self { running, blocks, limits, .. } = self;
        let planned = plan_pass(running, blocks, PassKind::Prefill, limits.prefill, &mut batch);
        (!planned.is_empty()).then(|| PartialPrefill::new(batch, planned, running))
    }

    /// Removes finished sequences, by falling index in the running batch.
    fn finish_all(&mut self, finished: Vec<(usize, Finish)>) {
        self.publish_state();
        for (index, finish) in finished {
            self.finish(index, finish);
        }
    }

    fn drop_disconnected(&mut self) {
        for index in (0..self.running.len()).rev() {
            if self.running[index].sequence.is_disconnected() {
                self.finish(index, Finish::Disconnected);
            }
        }
        let mut disconnected = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(sequence) = self.waiting.pop_front() else { break };
            if sequence.is_disconnected() {
                self.counters.finish_request();
                disconnected.push(sequence);
            } else {
                self.waiting.push_back(sequence);
            }
        }
        self.publish_state();
        // After the counters: a caller that sees its sink dropped finds its place free.
        drop(disconnected);
    }

    fn admit(&mut self) {
        while self.running.len() < self.limits.slots {
            let Some(sequence) = self.waiting.pop_front() else { break };
            let rope_regime = self.model.spec().rope_regime(sequence.prompt().len());
            let id = self.blocks.open(rope_regime);
            self.running.push(Running { id, sequence });
            let index = self.running.len() - 1;
            let reserved = self.reserve_admitted(index)
                || (self.captures.preempt(&mut self.blocks) && self.reserve_admitted(index));
            if !reserved {
                self.return_youngest();
                break;
            }
        }
        self.publish_state();
    }

    /// Reserves blocks for a new sequence's tokens and one more. If others run, they must still be able to grow.
    fn reserve_admitted(&mut self, index: usize) -> bool {
        // The shared prefix first: it must not be evicted for the rest.
        self.share_prefix(index);
        let Running { id, sequence } = &self.running[index];
        self.blocks.reserve(*id, sequence.required_tokens())
            && (index == 0 || self.blocks.available_blocks() >= index)
    }

    /// Returns the youngest running sequence to the head of the queue.
    fn return_youngest(&mut self) {
        if let Some(Running { id, mut sequence }) = self.running.pop() {
            self.drop_prefill_of(id);
            self.blocks.release(id);
            sequence.reset();
            self.waiting.push_front(sequence);
        }
    }

    /// Drops the prefill pass that has begun if it computes rows of a sequence that leaves. The other sequences in it
    /// begin again.
    fn drop_prefill_of(&mut self, id: SequenceId) {
        self.prefill_dropped |= self.prefill.take_if(|prefill| prefill.contains(id)).is_some();
    }

    /// Reserves room for each answer's next token, the oldest first, and preempts captures, then the youngest sequence,
    /// where blocks run out.
    fn reserve_next_tokens(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let Running { id, sequence } = &self.running[index];
            // A paused sequence has the blocks that it needs.
            let tokens = if sequence.is_paused() { 0 } else { sequence.tokens().len() };
            let id = *id;
            while index < self.running.len() && !self.blocks.reserve(id, tokens) {
                if self.captures.preempt(&mut self.blocks) {
                    continue;
                }
                let youngest = &self.running[self.running.len() - 1];
                // It may find them again when it is readmitted.
                youngest.cache_full_blocks(&mut self.blocks, usize::MAX);
                self.counters.preempted();
                self.return_youngest();
            }
            index += 1;
        }
    }

    /// Shares blocks that other sequences have computed meanwhile with those that are being prefilled.
    fn share_prefixes(&mut self) {
        for index in 0..self.running.len() {
            let running = &self.running[index];
            let begun = self.prefill.as_ref().is_some_and(|prefill| prefill.contains(running.id));
            if !begun && running.is_prefilling(&self.blocks) {
                self.share_prefix(index);
            }
        }
    }

    fn share_prefix(&mut self, index: usize) {
        let Self { running, blocks, .. } = self;
        let running = &mut running[index];
        while let Some(key) = running.shareable_key(blocks)
            && blocks.share_prefix(running.id, &key)
        {
            running.sequence.found_in_cache(BLOCK_SIZE);
        }
    }

    /// Runs the batch and applies its output. Returns the sequences that finish, by falling index.
    fn forward(&mut self, planned: &[PlannedRows]) -> Vec<(usize, Finish)> {
        let Self { model, blocks, batch, running, counters, limits, .. } = self;
        let begin = Instant::now();
        // Constraints compute their masks meanwhile, in other processes.
        let outcome = caught(|| model.forward(batch, blocks, &mut NoHooks).map(|_| ()));
        let outcome = outcome.unwrap_or_else(|panic| Err(from_panic(panic)));
        let rows = batch.tokens().len();
        if outcome.is_ok() && batch.decode_rows() == 0 && rows >= limits.prefill.alone.div_ceil(2) {
            counters.full_rate_prefill(rows, begin.elapsed());
        }
        let until = grace_period(begin);
        PassOutput { model: &mut **model, running, blocks, counters, until }.apply(planned, outcome)
    }

    /// Removes a sequence from the running batch. Its blocks and its slot are released before the last event, so that
    /// the receiver of that event finds them free.
    fn finish(&mut self, index: usize, finish: Finish) {
        let Running { id, sequence } = self.running.remove(index);
        self.drop_prefill_of(id);
        self.blocks.release(id);
        self.counters.finish_request();
        self.publish_state();
        if let Finish::End(reason) = finish {
            if let EndReason::Failed(why) = &reason {
                let prompt_tokens = sequence.prompt().len();
                tracing::error!(why, prompt_tokens, "a request failed in the engine");
            }
            sequence.end(reason);
        }
    }

    fn publish_state(&self) {
        self.counters.set_state(self.running.len(), self.waiting.len(), &self.blocks);
    }
}

/// Returns until when a batch waits for constraints, which compute their masks during the pass. A slower one may
/// delay the batch by a quarter of the pass; then its sequence pauses and the others go on.
fn grace_period(begin: Instant) -> Instant {
    Instant::now() + begin.elapsed() / 4
}

#[cfg(test)]
mod tests;
