//! Applies the output of a forward pass: tokens for the sequences in it, and the sequences that finish.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::error::{Error, panic_message};
use crate::forward::Forward;
use crate::kv_cache::BlockPool;
use crate::request::EndReason;
use crate::scheduler::batch_plan::PlannedRows;
use crate::scheduler::running::Running;
use crate::scheduler::sequence::Finish;
use crate::stats::Counters;

/// Everything that the output of a pass changes.
pub(crate) struct PassOutput<'a> {
    /// Holds the logits of the pass.
    pub model: &'a mut dyn Forward,
    pub running: &'a mut [Running],
    pub blocks: &'a mut BlockPool,
    pub counters: &'a Counters,
    /// The time until which constraints may compute the allowed tokens.
    pub until: Instant,
}

impl PassOutput<'_> {
    /// Applies the outcome of a pass. Returns the sequences that finish, by falling index in the running batch.
    pub fn apply(&mut self, planned: &[PlannedRows], outcome: Result<(), Error>) -> Vec<(usize, Finish)> {
        let all = |reason: EndReason| {
            planned.iter().map(|rows| (rows.index, Finish::End(reason.clone()))).collect()
        };
        let mut finished: Vec<(usize, Finish)> = match outcome {
            Ok(()) => planned.iter().flat_map(|rows| self.apply_rows(rows)).collect(),
            Err(Error::OutOfMemory { .. } | Error::DeviceMemory(_)) => all(EndReason::OutOfMemory),
            Err(error) => all(EndReason::Failed(error.to_string())),
        };
        finished.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        finished
    }

    /// Applies the rows of one sequence, to it and to those that waited for the same prefix.
    fn apply_rows(&mut self, rows: &PlannedRows) -> Vec<(usize, Finish)> {
        let Self { model, running, blocks, counters, .. } = self;
        let own = &mut running[rows.index];
        let prompt = own.sequence.prompt().len();
        let prefilled = rows.tokens.start.min(prompt)..rows.tokens.end.min(prompt);
        counters.prompt_tokens(prefilled.len());
        own.cache_full_blocks(blocks, prompt);
        let vocabulary = model.spec().vocabulary_size;
        own.sequence.score_prompt(prefilled, logits_of(&**model, &rows.outputs), vocabulary);
        if rows.tokens.end == prompt {
            // This holds for a prompt that was recomputed too, which does not need its logits any more.
            return self.start(rows.index, rows.outputs.end - 1..rows.outputs.end);
        }
        if rows.tokens.end < own.sequence.tokens().len() {
            return Vec::new();
        }
        self.sample(rows.index, &rows.outputs, &rows.draft).into_iter().collect()
    }

    /// Begins the answers of all sequences with a prompt that is computed now.
    fn start(&mut self, first: usize, last_row: Range<usize>) -> Vec<(usize, Finish)> {
        let (mut starting, mut finished) = (Vec::new(), Vec::new());
        let parent = self.running[first].id;
        for index in first + 1..self.running.len() {
            let [own, other] = [&self.running[first], &self.running[index]];
            if other.is_prefilling(self.blocks) && other.sequence.can_fork_from(&own.sequence) {
                let found = other.sequence.prompt().len() - other.computed(self.blocks);
                if let Some(copy) = self.blocks.fork(parent, other.id)
                    && let Err(error) = self.model.copy_block(copy)
                {
                    finished.push((index, Finish::End(EndReason::Failed(error.to_string()))));
                    continue;
                }
                self.running[index].sequence.found_in_cache(found);
                starting.push(index);
            }
        }
        if self.running[first].sequence.generated() == 0 {
            starting.push(first);
        }
        let others = starting.into_iter().filter_map(|index| {
            self.counters.cached_tokens(self.running[index].sequence.cached());
            self.sample(index, &last_row, &[])
        });
        finished.extend(others);
        finished
    }

    /// Samples from rows of the logits.
    fn sample(&mut self, index: usize, outputs: &Range<usize>, draft: &[u32]) -> Option<(usize, Finish)> {
        let Self { model, running, blocks, counters, until } = self;
        let Running { id, sequence } = &mut running[index];
        let (logits, vocabulary) = (logits_of(&**model, outputs), model.spec().vocabulary_size);
        let before = sequence.generated();
        let finish = finishes(|| sequence.sample(logits, vocabulary, draft, *until));
        let sampled = sequence.generated() - before;
        counters.generated(sampled);
        counters.drafted(draft.len(), sampled.saturating_sub(1));
        if finish.is_none() {
            // Rejected draft tokens leave the cache.
            blocks.truncate(*id, sequence.computed_tokens());
        }
        finish.map(|finish| (index, finish))
    }
}

/// Returns rows of the last pass's logits, `[rows, vocabulary]`.
fn logits_of<'a>(model: &'a dyn Forward, rows: &Range<usize>) -> &'a [f32] {
    let vocabulary = model.spec().vocabulary_size;
    &model.logits()[rows.start * vocabulary..rows.end * vocabulary]
}

/// Runs a sequence's own work. A panic in it ends that sequence alone.
pub(crate) fn finishes(work: impl FnOnce() -> Option<Finish>) -> Option<Finish> {
    caught(work).unwrap_or_else(|panic| Some(Finish::End(EndReason::Failed(panic_message(&*panic)))))
}

/// Catches a panic. The state that it leaves behind is dropped: the sequences concerned finish, and a pass begins by
/// overwriting its buffers.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
}
