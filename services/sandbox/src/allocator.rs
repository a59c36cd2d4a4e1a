//! The program's allocator, with a cap that a sandboxed process sets for itself.
//!
//! A process that asks for more than its cap ends at once with [`EXIT_OUT_OF_MEMORY`]: an allocator must not unwind, and
//! the process does nothing else that should continue. Without a cap an allocation costs one more load.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// The exit code of a process that exceeded its cap.
pub(crate) const EXIT_OUT_OF_MEMORY: i32 = 83;

static IS_CAPPED: AtomicBool = AtomicBool::new(false);
static LEFT: AtomicIsize = AtomicIsize::new(isize::MAX);

/// An allocator that counts the bytes it hands out, in capped processes.
pub struct Capped<A>(pub A);

/// Allows this process to allocate `bytes` more from now on. Has an effect only if [`Capped`] is the allocator.
pub(crate) fn cap(bytes: usize) {
    LEFT.store(isize::try_from(bytes).unwrap_or(isize::MAX), Ordering::Relaxed);
    IS_CAPPED.store(true, Ordering::Relaxed);
}

/// Returns the bytes that are left of the cap.
pub(crate) fn left() -> usize {
    usize::try_from(LEFT.load(Ordering::Relaxed)).unwrap_or(0)
}

fn charge(bytes: usize) {
    if !IS_CAPPED.load(Ordering::Relaxed) {
        return;
    }
    let bytes = isize::try_from(bytes).unwrap_or(isize::MAX);
    if LEFT.fetch_sub(bytes, Ordering::Relaxed) < bytes {
        // SAFETY: ends the process; nothing of it runs after this.
        unsafe { libc::_exit(EXIT_OUT_OF_MEMORY) }
    }
}

fn refund(bytes: usize) {
    if IS_CAPPED.load(Ordering::Relaxed) {
        LEFT.fetch_add(isize::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }
}

// SAFETY: each call goes to `A`, which keeps the contract; counting allocates nothing and does not unwind.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Capped<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: the caller's promises are A's.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        refund(layout.size());
        // SAFETY: as above.
        unsafe { self.0.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match size.checked_sub(layout.size()) {
            Some(more) => charge(more),
            None => refund(layout.size() - size),
        }
        // SAFETY: as above.
        unsafe { self.0.realloc(start, layout, size) }
    }
}
