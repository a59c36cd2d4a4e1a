//! What a forward pass gave: tokens for those it was run for, and who leaves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::cache::KvCache;
use crate::error::{Error, panic_message};
use crate::generation::{Due, Leave};
use crate::plan::Part;
use crate::request::EndReason;
use crate::running::Running;
use crate::stats::Counters;

/// What a pass changes.
pub(crate) struct PassOutcome<'a> {
    pub running: &'a mut [Running],
    pub cache: &'a mut KvCache,
    pub counters: &'a Counters,
    pub vocabulary: usize,
    /// How long constraints may take to say what may come.
    pub until: Instant,
}

impl PassOutcome<'_> {
    /// What a pass gave; who leaves comes last in the batch first.
    pub fn settle(&mut self, parts: &[Part], outcome: Result<&[f32], Error>) -> Vec<(usize, Leave)> {
        let all =
            |reason: EndReason| parts.iter().map(|part| (part.index, Leave::End(reason.clone()))).collect();
        let mut leaving: Vec<(usize, Leave)> = match outcome {
            Ok(logits) => {
                let vocabulary = self.vocabulary;
                let given =
                    |part: &Part| &logits[part.outputs.start * vocabulary..part.outputs.end * vocabulary];
                parts.iter().flat_map(|part| self.take_in(part, given(part))).collect()
            }
            Err(Error::OutOfMemory { .. } | Error::DeviceMemory(_)) => all(EndReason::OutOfMemory),
            Err(error) => all(EndReason::Failed(error.to_string())),
        };
        leaving.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        leaving
    }

    /// What a part of the pass gave, for whom it was run and for those who only waited for the same.
    fn take_in(&mut self, part: &Part, logits: &[f32]) -> Vec<(usize, Leave)> {
        let own = &mut self.running[part.index];
        let prompt = own.generation.prompt().len();
        let of_prompt = part.tokens.start.min(prompt)..part.tokens.end.min(prompt);
        self.counters.prompt_tokens(of_prompt.len());
        own.keep_pages(self.cache, prompt);
        own.generation.score(of_prompt.clone(), logits, self.vocabulary);
        if part.tokens.end == prompt {
            // Also those of one that has been read again, which needs them no more.
            let last = &logits[logits.len() - self.vocabulary..];
            return self.start(part.index, last);
        }
        if part.tokens.end < own.generation.tokens().len() {
            return Vec::new();
        }
        self.go_on(part.index, logits, &part.guessed).into_iter().collect()
    }

    /// A prompt is read: all who asked the same begin to answer.
    fn start(&mut self, first: usize, logits: &[f32]) -> Vec<(usize, Leave)> {
        let (mut starting, mut lost) = (Vec::new(), Vec::new());
        let origin = self.running[first].sequence;
        for index in first + 1..self.running.len() {
            let [own, twin] = [&self.running[first], &self.running[index]];
            let waits = matches!(twin.due(self.cache), Due::Prompt(_));
            if waits && twin.generation.is_twin_of(&own.generation) {
                let found = twin.generation.prompt().len() - twin.held(self.cache);
                if let Err(error) = self.cache.follow(origin, twin.sequence) {
                    lost.push((index, Leave::End(EndReason::Failed(error.to_string()))));
                    continue;
                }
                self.running[index].generation.found(found);
                starting.push(index);
            }
        }
        if self.running[first].generation.generated() == 0 {
            starting.push(first);
        }
        let left = starting.into_iter().filter_map(|index| {
            self.counters.cached_tokens(self.running[index].generation.cached());
            self.go_on(index, logits, &[])
        });
        lost.extend(left);
        lost
    }

    fn go_on(&mut self, index: usize, logits: &[f32], guessed: &[u32]) -> Option<(usize, Leave)> {
        let Self { cache, counters, vocabulary, until, .. } = self;
        let Running { sequence, generation } = &mut self.running[index];
        let before = generation.generated();
        let left = ended(|| generation.go_on(logits, *vocabulary, guessed, *until));
        let chosen = generation.generated() - before;
        counters.generated(chosen);
        counters.guessed(guessed.len(), chosen.saturating_sub(1));
        if left.is_none() {
            // What was guessed wrong was computed in vain.
            cache.pages_mut().truncate(*sequence, generation.run());
        }
        left.map(|leave| (index, leave))
    }
}

/// How a generation ends by `work`; a panic in it is that one's end.
pub(crate) fn ended(work: impl FnOnce() -> Option<Leave>) -> Option<Leave> {
    caught(work).unwrap_or_else(|panic| Some(Leave::End(EndReason::Failed(panic_message(&*panic)))))
}

/// What is behind an unwind is dropped: the requests concerned leave, and a pass begins by overwriting its buffers.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
}
