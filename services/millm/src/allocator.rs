//! The allocator of the whole program, and when it returns memory to the system.

use std::cell::Cell;
use std::ffi::{c_int, c_long};
use std::time::{Duration, Instant};

use millm_sandbox::Capped;

// Without huge pages of its own (`no_thp`): each small allocation could make 2 MiB resident. Weights ask for theirs.
#[global_allocator]
static ALLOCATOR: Capped<mimalloc::MiMalloc> = Capped(mimalloc::MiMalloc);

/// `mi_option_purge_delay` of mimalloc.h, in milliseconds: how long freed pages are kept for reuse.
const PURGE_DELAY: c_int = 15;

/// The shortest time between two releases by an idle thread.
const IDLE_RELEASE_INTERVAL: Duration = Duration::from_secs(1);

// SAFETY: as mimalloc.h declares them, in the library that the crate links; they may be called at any time.
unsafe extern "C" {
    safe fn mi_collect(force: bool);
    safe fn mi_option_set(option: c_int, value: c_long);
}

/// Makes the allocator return freed pages after 10 ms instead of a second. A download allocates and frees megabytes on
/// every thread: with a second it held 15 MB more and was no faster.
pub fn return_pages_quickly() {
    mi_option_set(PURGE_DELAY, 10);
}

/// Returns freed memory of the calling thread to the system, at most once a second. Each thread has a heap of its own, and
/// keeps what a large request left there until the thread allocates again.
pub fn release_free_pages_when_idle() {
    thread_local!(static LAST: Cell<Option<Instant>> = const { Cell::new(None) });
    let now = Instant::now();
    if LAST.get().is_none_or(|last| now.duration_since(last) >= IDLE_RELEASE_INTERVAL) {
        LAST.set(Some(now));
        mi_collect(true);
    }
}

/// Returns freed memory to the system now. Otherwise mimalloc keeps some of it, and an unloaded model would still count
/// as used.
pub fn release_free_pages() {
    mi_collect(true);
}
