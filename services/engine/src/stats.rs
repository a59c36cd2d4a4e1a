//! What the engine counts: written by its thread, read by anyone at any time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counters since the load, and the present state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub forward_passes: u64,
    /// Prompt tokens run.
    pub prompt_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
    pub running: usize,
    pub waiting: usize,
    pub kv_pages_free: usize,
    pub kv_pages_total: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    forward_passes: AtomicU64,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    running: AtomicUsize,
    waiting: AtomicUsize,
    kv_pages_free: AtomicUsize,
    kv_pages_total: AtomicUsize,
    /// Requests taken and not over: running, waiting, or on their way to the engine's thread.
    taken: AtomicUsize,
}

impl Counters {
    /// Takes a place among `most`, or says how many are taken.
    pub fn enter(&self, most: usize) -> Result<(), usize> {
        let more = |taken| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).map(|_| ())
    }

    pub fn left(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn forward_pass(&self) {
        self.forward_passes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn tokens(&self, prompt: usize, generated: usize) {
        self.prompt_tokens.fetch_add(prompt as u64, Ordering::Relaxed);
        self.generated_tokens.fetch_add(generated as u64, Ordering::Relaxed);
    }

    pub fn present(&self, running: usize, waiting: usize, pages_free: usize, pages_total: usize) {
        self.running.store(running, Ordering::Relaxed);
        self.waiting.store(waiting, Ordering::Relaxed);
        self.kv_pages_free.store(pages_free, Ordering::Relaxed);
        self.kv_pages_total.store(pages_total, Ordering::Relaxed);
    }

    pub fn stats(&self) -> Stats {
        Stats {
            forward_passes: self.forward_passes.load(Ordering::Relaxed),
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            generated_tokens: self.generated_tokens.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            kv_pages_free: self.kv_pages_free.load(Ordering::Relaxed),
            kv_pages_total: self.kv_pages_total.load(Ordering::Relaxed),
        }
    }
}
