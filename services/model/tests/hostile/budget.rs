//! Limits memory and time of a parser under test, which runs on its own thread.
//!
//! [`Budgeted`] is the allocator of the whole test. An allocator must not unwind, and a refused allocation aborts the
//! process. So a thread that exceeds its budget sleeps for ever, and the test that waits for it is woken.

use std::alloc::{GlobalAlloc, Layout};
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The limits of a piece of work.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes beyond the work's input. Counts only where [`Budgeted`] is the allocator.
    pub memory: usize,
    pub time: Duration,
    /// Bytes of address space for the stack.
    pub stack: usize,
}

/// The reason why there is no result.
#[derive(Debug)]
pub enum Stopped {
    Memory,
    Time,
    Panicked(Box<dyn Any + Send>),
    #[allow(dead_code, reason = "shown by failures")]
    Thread(std::io::Error),
}

/// An allocator that counts the bytes of threads with a budget.
pub struct Budgeted<A>(pub A);

struct Account {
    left: AtomicIsize,
    is_over: AtomicBool,
    waiter: Thread,
}

thread_local! {
    static ACCOUNT: Cell<*const Account> = const { Cell::new(null()) };
}

/// Runs `work` on its own thread and waits for it. Work that exceeds its budget is abandoned.
pub fn run<T: Send + 'static>(
    budget: Budget,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stopped> {
    let account = Arc::new(Account {
        left: AtomicIsize::new(isize::try_from(budget.memory).unwrap_or(isize::MAX)),
        is_over: AtomicBool::new(false),
        waiter: thread::current(),
    });
    let result = Arc::new(Mutex::new(None));
    let (own, slot) = (Arc::clone(&account), Arc::clone(&result));
    let job = move || {
        ACCOUNT.set(&raw const *own);
        let done = catch_unwind(AssertUnwindSafe(work));
        ACCOUNT.set(null());
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        own.waiter.unpark();
    };
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(budget.stack);
    thread.spawn(job).map_err(Stopped::Thread)?;
    let deadline = Instant::now().checked_add(budget.time);
    loop {
        if let Some(done) = result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return done.map_err(Stopped::Panicked);
        }
        if account.is_over.load(Ordering::Acquire) {
            return Err(Stopped::Memory);
        }
        let left = deadline.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            // The thread stops at its next allocation.
            account.left.store(isize::MIN / 2, Ordering::Relaxed);
            return Err(Stopped::Time);
        }
        thread::park_timeout(left);
    }
}

fn account() -> Option<&'static Account> {
    let account = ACCOUNT.try_with(Cell::get).unwrap_or(null());
    // SAFETY: the pointer is set only during the work, by the thread that holds the account that long.
    unsafe { account.as_ref() }
}

fn charge(bytes: usize) {
    let Some(account) = account() else { return };
    let bytes = isize::try_from(bytes).unwrap_or(isize::MAX / 2);
    // A panic ends the work anyway, and the hook that reports it holds locks that other threads need.
    if account.left.fetch_sub(bytes, Ordering::Relaxed) >= bytes || thread::panicking() {
        return;
    }
    account.is_over.store(true, Ordering::Release);
    account.waiter.unpark();
    loop {
        thread::park();
    }
}

fn refund(bytes: usize) {
    if let Some(account) = account() {
        account.left.fetch_add(isize::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }
}

// SAFETY: each call is forwarded to `A`, which keeps the contract; counting does not allocate or unwind.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Budgeted<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: the caller keeps the contract of `A`.
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

const SMALL: Budget = Budget { memory: 1 << 20, time: Duration::from_secs(60), stack: 1 << 20 };

#[test]
fn work_within_its_budget_gives_its_result() {
    let result = run(SMALL, "within", || {
        // Freed memory can be used again.
        (0..100).map(|n| vec![n; 100_000].len()).sum::<usize>()
    });
    assert_eq!(result.expect("within"), 10_000_000);
    let panicked = run(SMALL, "panic", || panic!("injected"));
    assert!(matches!(panicked, Err::<(), _>(Stopped::Panicked(_))));
}

#[test]
fn work_beyond_its_budget_is_left_behind() {
    let grown = run(SMALL, "growing", || {
        let mut bytes = Vec::new();
        loop {
            bytes.extend([0_u8; 1000]);
        }
    });
    assert!(matches!(grown, Err::<(), _>(Stopped::Memory)));
    let endless = Budget { time: Duration::from_millis(50), ..SMALL };
    let endless = run(endless, "endless", || {
        loop {
            std::hint::black_box(vec![0_u8; 100]);
        }
    });
    assert!(matches!(endless, Err::<(), _>(Stopped::Time)));
}
