//! What the engine counts: written by its thread, read by anyone at any time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::pages::Pages;

/// Counters since the load, and the present state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub forward_passes: u64,
    /// Prompt tokens run.
    pub prompt_tokens: u64,
    /// Prompt tokens that were found in the cache instead.
    pub cached_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Tokens guessed ahead, and how many of them came true.
    pub guessed_tokens: u64,
    pub true_guesses: u64,
    /// How often a running request gave up its pages for an older one.
    pub preemptions: u64,
    pub running: usize,
    pub waiting: usize,
    pub kv_pages_free: usize,
    /// Held by nobody, but kept for who begins the same; they make room when that is needed.
    pub kv_pages_kept: usize,
    pub kv_pages_total: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    forward_passes: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    guessed_tokens: AtomicU64,
    true_guesses: AtomicU64,
    preemptions: AtomicU64,
    running: AtomicUsize,
    waiting: AtomicUsize,
    kv_pages_free: AtomicUsize,
    kv_pages_kept: AtomicUsize,
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
        add(&self.forward_passes, 1);
    }

    pub fn prompt_tokens(&self, run: usize) {
        add(&self.prompt_tokens, run);
    }

    pub fn cached_tokens(&self, found: usize) {
        add(&self.cached_tokens, found);
    }

    pub fn generated(&self, tokens: usize) {
        add(&self.generated_tokens, tokens);
    }

    pub fn guessed(&self, tokens: usize, came_true: usize) {
        add(&self.guessed_tokens, tokens);
        add(&self.true_guesses, came_true.min(tokens));
    }

    pub fn preempted(&self) {
        add(&self.preemptions, 1);
    }

    pub fn present(&self, running: usize, waiting: usize, pages: &Pages) {
        self.running.store(running, Ordering::Relaxed);
        self.waiting.store(waiting, Ordering::Relaxed);
        self.kv_pages_free.store(pages.free(), Ordering::Relaxed);
        self.kv_pages_kept.store(pages.kept(), Ordering::Relaxed);
        self.kv_pages_total.store(pages.total(), Ordering::Relaxed);
    }

    pub fn stats(&self) -> Stats {
        Stats {
            forward_passes: self.forward_passes.load(Ordering::Relaxed),
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            cached_tokens: self.cached_tokens.load(Ordering::Relaxed),
            generated_tokens: self.generated_tokens.load(Ordering::Relaxed),
            guessed_tokens: self.guessed_tokens.load(Ordering::Relaxed),
            true_guesses: self.true_guesses.load(Ordering::Relaxed),
            preemptions: self.preemptions.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            kv_pages_free: self.kv_pages_free.load(Ordering::Relaxed),
            kv_pages_kept: self.kv_pages_kept.load(Ordering::Relaxed),
            kv_pages_total: self.kv_pages_total.load(Ordering::Relaxed),
        }
    }
}

fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}
