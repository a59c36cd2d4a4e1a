//! Scheduling priorities of sandboxed processes, on Linux: they yield to the engine's threads, so that running answers
//! continue beside their work.

use std::time::Duration;

/// The scheduling priority of a thread.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rank {
    /// Nicer than the server by this many steps. There is nothing below it, such as `SCHED_IDLE`: a process that gets no
    /// time at all on a busy machine cannot end either, and keeps its memory.
    Nice(i32),
}

/// For work that a client waits for and that usually takes milliseconds.
pub(crate) const USUAL: Rank = Rank::Nice(5);
/// For a prompt that takes longer than [`PROMPT_IS_SHORT`].
pub(crate) const LONG_PROMPT: Rank = Rank::Nice(10);
/// For an answer whose grammar takes longer than [`STEPS_ARE_SHORT`] and [`STEP_IS_SHORT`] for each token. A client
/// reads the answer, so it must continue even on a busy machine.
pub(crate) const LONG_STEPS: Rank = Rank::Nice(10);
/// For a grammar that takes longer than [`GRAMMAR_IS_SHORT`] to compile.
pub(crate) const LONG_GRAMMAR: Rank = Rank::Nice(10);
/// For a grammar that takes longer than [`GRAMMAR_IS_USUAL`] to compile.
pub(crate) const UNUSUAL_GRAMMAR: Rank = Rank::Nice(15);

/// 50,000 tokens take less.
pub(crate) const PROMPT_IS_SHORT: Duration = Duration::from_millis(100);
/// A schema of a hundred properties takes less.
pub(crate) const GRAMMAR_IS_SHORT: Duration = Duration::from_millis(50);
/// The largest schemas that clients publish take less.
pub(crate) const GRAMMAR_IS_USUAL: Duration = Duration::from_millis(500);
/// CPU time that an answer may use in addition to [`STEP_IS_SHORT`] for each token.
pub(crate) const STEPS_ARE_SHORT: Duration = Duration::from_millis(200);
/// CPU time for each token. A token usually takes a twentieth of this.
pub(crate) const STEP_IS_SHORT: Duration = Duration::from_millis(1);

/// Sets the priority of the calling thread, which cannot be raised again.
pub(crate) fn yield_to_others(rank: Rank) {
    #[cfg(target_os = "linux")]
    linux::set(linux::thread(), rank);
    #[cfg(not(target_os = "linux"))]
    let _ = rank;
}

/// Lowers the priority of the calling thread once this process has used so much CPU time from now on, and once more where
/// there is a second step. The steps' times are ascending.
pub(crate) fn yield_later(first: (Duration, Rank), second: Option<(Duration, Rank)>) {
    #[cfg(target_os = "linux")]
    linux::set_later(first, second);
    #[cfg(not(target_os = "linux"))]
    let _ = (first, second);
}

/// Cancels [`yield_later`].
pub(crate) fn yield_no_more() {
    #[cfg(target_os = "linux")]
    crate::limits::set_timer(libc::ITIMER_VIRTUAL, Duration::ZERO);
}

/// Returns whether [`yield_later`] has lowered the priority.
pub(crate) fn has_yielded() -> bool {
    #[cfg(target_os = "linux")]
    return linux::HAS_YIELDED.load(std::sync::atomic::Ordering::Relaxed);
    #[cfg(not(target_os = "linux"))]
    return false;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
    use std::sync::{LazyLock, Once};
    use std::time::Duration;

    use super::Rank;
    use crate::limits;

    /// The niceness of the helper, before it or a fork of it yields.
    static USUAL: LazyLock<i32> = LazyLock::new(|| {
        // SAFETY: 0 is the calling thread; the helper asks first, on its only one.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    });

    pub(super) static HAS_YIELDED: AtomicBool = AtomicBool::new(false);
    /// The thread whose priority is lowered later.
    static THREAD: AtomicI32 = AtomicI32::new(0);
    /// Its later niceness.
    static NICE: AtomicI32 = AtomicI32::new(0);
    /// The niceness of the second step, and its CPU time after the first in microseconds; 0 for none.
    static SECOND_NICE: AtomicI32 = AtomicI32::new(0);
    static SECOND_AFTER: AtomicU64 = AtomicU64::new(0);
    /// The shortest time slice that the kernel accepts.
    const SLICE: Duration = Duration::from_micros(100);

    pub(super) fn thread() -> i32 {
        // SAFETY: no arguments.
        unsafe { libc::gettid() }
    }

    fn niceness(Rank::Nice(steps): Rank) -> i32 {
        *USUAL + steps
    }

    pub(super) fn set(thread: i32, rank: Rank) {
        apply(thread, niceness(rank));
    }

    /// Makes system calls only, so that a signal handler may call it.
    fn apply(thread: i32, nice: i32) {
        if !set_nice_and_slice(thread, nice) {
            // SAFETY: plain numbers; the thread is one of this process.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, thread as libc::id_t, nice) };
        }
    }

    /// Sets the niceness and the time slice, after which another thread gets the core. Kernels since 6.12 have the
    /// latter.
    fn set_nice_and_slice(thread: i32, nice: i32) -> bool {
        let attributes = libc::sched_attr {
            size: size_of::<libc::sched_attr>() as u32,
            sched_policy: libc::SCHED_OTHER as u32,
            sched_flags: 0,
            sched_nice: nice,
            sched_priority: 0,
            sched_runtime: SLICE.as_nanos() as u64,
            sched_deadline: 0,
            sched_period: 0,
        };
        // SAFETY: the attributes are whole and valid for the call, which copies them.
        unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attributes, 0) == 0 }
    }

    pub(super) fn set_later((after, rank): (Duration, Rank), second: Option<(Duration, Rank)>) {
        static ONCE: Once = Once::new();
        THREAD.store(thread(), Relaxed);
        NICE.store(niceness(rank), Relaxed);
        let (second_after, second_rank) = second.unwrap_or((after, rank));
        SECOND_NICE.store(niceness(second_rank), Relaxed);
        SECOND_AFTER.store(second_after.saturating_sub(after).as_micros() as u64, Relaxed);
        ONCE.call_once(|| {
            // SAFETY: the action is whole: a handler that makes system calls only, no flags but restarting, no signals masked.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let handler: extern "C" fn(libc::c_int) = on_time;
                action.sa_sigaction = handler as libc::sighandler_t;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(libc::SIGVTALRM, &raw const action, std::ptr::null_mut());
            }
        });
        limits::set_timer(libc::ITIMER_VIRTUAL, after);
    }

    extern "C" fn on_time(_: libc::c_int) {
        HAS_YIELDED.store(true, Relaxed);
        apply(THREAD.load(Relaxed), NICE.load(Relaxed));
        let after = SECOND_AFTER.swap(0, Relaxed);
        if after > 0 {
            NICE.store(SECOND_NICE.load(Relaxed), Relaxed);
            limits::set_timer(libc::ITIMER_VIRTUAL, Duration::from_micros(after));
        }
    }
}
