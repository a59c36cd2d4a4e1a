//! A handler for SIGBUS, which the system sends when a mapped file is truncated, or its disk fails, while it is read.
//! Without a handler the signal ends the process.
//!
//! Every mapping has an entry in a table. The handler finds the mapping that contains the faulting address, maps zeros
//! over the missing part and marks the entry. Readers continue over zeros, and ask at the end whether the file was
//! intact. A SIGBUS outside these mappings goes to the handler that was installed before.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The most files mapped at once. A model has a few, the largest models have some hundred.
const MAX_MAPPINGS: usize = 4096;

struct Entry {
    is_taken: AtomicBool,
    /// The mapping's address; 0 while the entry is not in use.
    start: AtomicUsize,
    end: AtomicUsize,
    is_truncated: AtomicBool,
}

static TABLE: [Entry; MAX_MAPPINGS] = [const {
    Entry {
        is_taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        is_truncated: AtomicBool::new(false),
    }
}; MAX_MAPPINGS];

/// A mapping's entry in the table. It must be dropped before the mapping.
#[derive(Debug)]
pub(crate) struct SigbusGuard(usize);

impl SigbusGuard {
    /// Enters a mapping. Returns `None` when the table is full.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(install);
        let take = |entry: &Entry| {
            entry.is_taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let index = TABLE.iter().position(take)?;
        let (start, entry) = (bytes.as_ptr() as usize, &TABLE[index]);
        entry.is_truncated.store(false, Ordering::Relaxed);
        entry.end.store(start + bytes.len(), Ordering::Relaxed);
        entry.start.store(start, Ordering::Release);
        Some(Self(index))
    }

    /// Returns whether a part of the mapping was read as zeros.
    pub(crate) fn is_truncated(&self) -> bool {
        TABLE[self.0].is_truncated.load(Ordering::Acquire)
    }
}

impl Drop for SigbusGuard {
    fn drop(&mut self) {
        TABLE[self.0].start.store(0, Ordering::Release);
        TABLE[self.0].is_taken.store(false, Ordering::Release);
    }
}

struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written once before the handler can run, read only afterwards.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::zeroed()));
static PAGE: AtomicUsize = AtomicUsize::new(4096);

fn install() {
    // SAFETY: sysconf only returns a number.
    if let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) {
        PAGE.store(page, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    // SAFETY: a sigaction of zeros is valid; the handler only calls async-signal-safe functions, and the previous action
    // is saved, to be restored.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, PREVIOUS.0.get().cast())
    };
    if installed != 0 {
        tracing::warn!("no SIGBUS handler: a file that is truncated while it is read will end this process");
    }
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system passes a valid siginfo to a handler installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    if !map_zeros(address) {
        // SAFETY: the previous action was saved when this handler was installed; the instruction runs again, and its
        // fault goes to that action.
        unsafe { libc::sigaction(signal, PREVIOUS.0.get().cast(), null_mut()) };
    }
}

/// Maps zeros from the faulting page to the end of its mapping: nothing after it is in the file either. Returns whether
/// the address is in one of the mappings.
fn map_zeros(address: usize) -> bool {
    let faulting = |entry: &&Entry| {
        let start = entry.start.load(Ordering::Acquire);
        start != 0 && (start..entry.end.load(Ordering::Relaxed)).contains(&address)
    };
    let Some(entry) = TABLE.iter().find(faulting) else { return false };
    entry.is_truncated.store(true, Ordering::Release);
    let page = address & !(PAGE.load(Ordering::Relaxed) - 1);
    let length = entry.end.load(Ordering::Relaxed) - page;
    // SAFETY: replaces pages of a read-only mapping in the table that have no file behind them any more.
    let zeros = unsafe {
        libc::mmap(
            page as *mut libc::c_void,
            length,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    zeros != libc::MAP_FAILED
}
