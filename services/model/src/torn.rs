//! Files that end under a mapping: somebody truncates a model while it is read, or its disk fails. The system says
//! so with SIGBUS, which ends a process that is not prepared.
//!
//! Mappings are entered in a table; the handler finds the one that was hurt, puts zeros where the file is no more
//! and remembers it. Readers go on, over zeros, and ask at their end whether what they read was whole. A SIGBUS
//! that concerns no mapping of ours goes where it would have gone.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Files mapped at once; models have a few, the largest some hundred.
const MOST: usize = 4096;

struct Entry {
    is_taken: AtomicBool,
    /// 0 while it is not filled in.
    start: AtomicUsize,
    end: AtomicUsize,
    is_torn: AtomicBool,
}

static TABLE: [Entry; MOST] = [const {
    Entry {
        is_taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        is_torn: AtomicBool::new(false),
    }
}; MOST];

/// A mapping's place in the table, as long as it is mapped.
#[derive(Debug)]
pub(crate) struct Watch(usize);

impl Watch {
    /// `None` when the table is full.
    pub(crate) fn over(bytes: &[u8]) -> Option<Self> {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(install);
        let take = |entry: &Entry| {
            entry.is_taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let index = TABLE.iter().position(take)?;
        let (start, entry) = (bytes.as_ptr() as usize, &TABLE[index]);
        entry.is_torn.store(false, Ordering::Relaxed);
        entry.end.store(start + bytes.len(), Ordering::Relaxed);
        entry.start.store(start, Ordering::Release);
        Some(Self(index))
    }

    /// A part of it was read as zeros.
    pub(crate) fn is_torn(&self) -> bool {
        TABLE[self.0].is_torn.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
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
    // SAFETY: asks the system for a number.
    if let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) {
        PAGE.store(page, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    // SAFETY: a sigaction of zeros is valid; the handler keeps to what a signal handler may do, and the one before
    // is kept, to be put back.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, PREVIOUS.0.get().cast())
    };
    if installed != 0 {
        tracing::warn!("files that end while they are read will end this process");
    }
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system gives a valid siginfo to a handler that asked for it.
    let address = unsafe { (*info).si_addr() } as usize;
    if !mend(address) {
        // SAFETY: the action was filled in when this handler was installed; the instruction runs again and its
        // fault goes there.
        unsafe { libc::sigaction(signal, PREVIOUS.0.get().cast(), null_mut()) };
    }
}

/// Zeros from the hurt page to the end of its mapping: what follows the end of a file is no more either.
fn mend(address: usize) -> bool {
    let hurt = |entry: &&Entry| {
        let start = entry.start.load(Ordering::Acquire);
        start != 0 && (start..entry.end.load(Ordering::Relaxed)).contains(&address)
    };
    let Some(entry) = TABLE.iter().find(hurt) else { return false };
    entry.is_torn.store(true, Ordering::Release);
    let page = address & !(PAGE.load(Ordering::Relaxed) - 1);
    let length = entry.end.load(Ordering::Relaxed) - page;
    // SAFETY: replaces pages of a mapping of ours that has no file behind it any more, for readers only.
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
