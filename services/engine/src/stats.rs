//! The engine's counters: written by its thread, read by any other at any time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::kv_cache::BlockPool;

/// Counters since the load, and the present state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Forward passes run.
    pub forward_passes: u64,
    /// Prompt tokens computed.
    pub prompt_tokens: u64,
    /// Prompt tokens found in the KV cache instead.
    pub cached_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Tokens proposed by prompt lookup.
    pub draft_tokens: u64,
    /// Draft tokens that the model sampled itself.
    pub accepted_tokens: u64,
    /// The number of times that a running request was preempted by an older one.
    pub preemptions: u64,
    /// Tokens whose states captures have delivered. They are not in `prompt_tokens`.
    pub captured_tokens: u64,
    /// The speed of the latest prefill passes that ran alone and had many rows; 0 before the first.
    pub prefill_tokens_per_second: u64,
    /// Requests in the running batch.
    pub running: usize,
    /// Requests in the queue.
    pub waiting: usize,
    /// Captures that run or wait.
    pub captures: usize,
    /// KV blocks without content.
    pub kv_blocks_free: usize,
    /// KV blocks that no request holds and that the prefix cache keeps. They are evicted when blocks are needed.
    pub kv_blocks_cached: usize,
    /// All KV blocks.
    pub kv_blocks_total: usize,
}

/// The same, shared between threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    forward_passes: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    draft_tokens: AtomicU64,
    accepted_tokens: AtomicU64,
    preemptions: AtomicU64,
    captured_tokens: AtomicU64,
    prefill_tokens_per_second: AtomicU64,
    running: AtomicUsize,
    waiting: AtomicUsize,
    kv_blocks_free: AtomicUsize,
    kv_blocks_cached: AtomicUsize,
    kv_blocks_total: AtomicUsize,
    /// Requests accepted and not finished: running, waiting, or on their way to the engine's thread.
    accepted_requests: AtomicUsize,
    /// The same for captures.
    accepted_captures: AtomicUsize,
}

impl Counters {
    /// Counts one more accepted request, at most `limit`. The error is the number of those that there are.
    pub fn accept_request(&self, limit: usize) -> Result<(), usize> {
        accept(&self.accepted_requests, limit)
    }

    /// Counts one more accepted capture, at most `limit`. The error is the number of those that there are.
    pub fn accept_capture(&self, limit: usize) -> Result<(), usize> {
        accept(&self.accepted_captures, limit)
    }

    /// Counts a capture as finished.
    pub fn finish_capture(&self) {
        self.accepted_captures.fetch_sub(1, Ordering::AcqRel);
    }

    /// Counts a request as finished.
    pub fn finish_request(&self) {
        self.accepted_requests.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn forward_pass(&self) {
        add(&self.forward_passes, 1);
    }

    pub fn prompt_tokens(&self, computed: usize) {
        add(&self.prompt_tokens, computed);
    }

    pub fn cached_tokens(&self, found: usize) {
        add(&self.cached_tokens, found);
    }

    pub fn generated(&self, tokens: usize) {
        add(&self.generated_tokens, tokens);
    }

    pub fn drafted(&self, tokens: usize, accepted: usize) {
        add(&self.draft_tokens, tokens);
        add(&self.accepted_tokens, accepted.min(tokens));
    }

    pub fn preempted(&self) {
        add(&self.preemptions, 1);
    }

    pub fn captured(&self, tokens: usize) {
        add(&self.captured_tokens, tokens);
    }

    /// Notes a prefill pass that ran alone, with many rows. The speed is a moving average over about four passes.
    pub fn full_rate_prefill(&self, rows: usize, time: Duration) {
        let now = rows as f64 / time.as_secs_f64().max(1e-9);
        let before = self.prefill_tokens_per_second.load(Ordering::Relaxed);
        let mean = if before == 0 { now } else { 0.75 * before as f64 + 0.25 * now };
        // Only the engine's thread writes it.
        self.prefill_tokens_per_second.store(mean.round().max(1.0) as u64, Ordering::Relaxed);
    }

    /// Stores the present state.
    pub fn set_state(&self, running: usize, waiting: usize, blocks: &BlockPool) {
        self.running.store(running, Ordering::Relaxed);
        self.waiting.store(waiting, Ordering::Relaxed);
        self.kv_blocks_free.store(blocks.free_blocks(), Ordering::Relaxed);
        self.kv_blocks_cached.store(blocks.cached_blocks(), Ordering::Relaxed);
        self.kv_blocks_total.store(blocks.total_blocks(), Ordering::Relaxed);
    }

    pub fn stats(&self) -> Stats {
        Stats {
            forward_passes: self.forward_passes.load(Ordering::Relaxed),
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            cached_tokens: self.cached_tokens.load(Ordering::Relaxed),
            generated_tokens: self.generated_tokens.load(Ordering::Relaxed),
            draft_tokens: self.draft_tokens.load(Ordering::Relaxed),
            accepted_tokens: self.accepted_tokens.load(Ordering::Relaxed),
            preemptions: self.preemptions.load(Ordering::Relaxed),
            captured_tokens: self.captured_tokens.load(Ordering::Relaxed),
            prefill_tokens_per_second: self.prefill_tokens_per_second.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            captures: self.accepted_captures.load(Ordering::Acquire),
            kv_blocks_free: self.kv_blocks_free.load(Ordering::Relaxed),
            kv_blocks_cached: self.kv_blocks_cached.load(Ordering::Relaxed),
            kv_blocks_total: self.kv_blocks_total.load(Ordering::Relaxed),
        }
    }
}

fn accept(accepted: &AtomicUsize, limit: usize) -> Result<(), usize> {
    let more = |count| (count < limit).then_some(count + 1);
    accepted.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).map(|_| ())
}

fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefill_speed_follows_the_latest_passes() {
        let counters = Counters::default();
        let speed = || counters.stats().prefill_tokens_per_second;
        assert_eq!(speed(), 0);
        counters.full_rate_prefill(256, Duration::from_millis(256));
        assert_eq!(speed(), 1000);
        counters.full_rate_prefill(256, Duration::from_millis(128));
        assert_eq!(speed(), 1250);
        counters.full_rate_prefill(1, Duration::MAX);
        counters.full_rate_prefill(usize::MAX, Duration::ZERO);
        assert!(speed() > 1250);
    }
}
