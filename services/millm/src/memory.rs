//! The allocator of the whole program, and what is asked of it beside memory.

use std::cell::Cell;
use std::ffi::{c_int, c_long};
use std::time::{Duration, Instant};

use millm_sandbox::Capped;

// Without huge pages of its own (`no_thp`): each small allocation could make 2 MiB resident. Weights ask for theirs.
#[global_allocator]
static ALLOCATOR: Capped<mimalloc::MiMalloc> = Capped(mimalloc::MiMalloc);

/// `mi_option_purge_delay` of mimalloc.h, in milliseconds: how long freed pages are kept for the next taker.
const PURGE_DELAY: c_int = 15;

/// How often a thread that has nothing to do gives back.
const OFTEN: Duration = Duration::from_secs(1);

// SAFETY: as mimalloc.h declares them, in the library that the crate links; they may be called at any time.
unsafe extern "C" {
    safe fn mi_collect(force: bool);
    safe fn mi_option_set(option: c_int, value: c_long);
}

/// Of itself mimalloc keeps freed pages for a second: with megabytes that come and go on every thread, a download held
/// 15 MB more and was no faster.
pub fn keep_little() {
    mi_option_set(PURGE_DELAY, 10);
}

/// Returns freed memory of the calling thread to the system, once a second at most: each thread has a heap of its own, and
/// keeps what a large request left there until it allocates again.
pub fn give_back_when_idle() {
    thread_local!(static LAST: Cell<Option<Instant>> = const { Cell::new(None) });
    let now = Instant::now();
    if LAST.get().is_none_or(|last| now.duration_since(last) >= OFTEN) {
        LAST.set(Some(now));
        mi_collect(true);
    }
}

/// Returns freed memory to the system now. Of itself mimalloc keeps some of it, and a model that was unloaded
/// would still count as used.
pub fn give_back() {
    mi_collect(true);
}
