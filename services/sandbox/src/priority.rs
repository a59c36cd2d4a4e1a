//! How a sandboxed process yields to others, where threads can have a rank of their own: answers go on beside its work.

use std::time::Duration;

/// How far a thread stands back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rank {
    /// Steps of niceness below the server.
    Nice(i32),
    /// It runs when nobody else would, and whoever wakes takes its core at once. A nice thread keeps a core for a slice,
    /// and an engine's threads wait for each other in each pass: such slices are much of what a pass takes.
    Idle,
}

/// For work that somebody waits for and that is usually done in milliseconds.
pub(crate) const USUAL: Rank = Rank::Nice(5);
/// For a prompt that takes longer than [`PROMPT_IS_SHORT`].
pub(crate) const LONG_PROMPT: Rank = Rank::Nice(10);
/// For an answer whose grammar takes longer than [`STEPS_ARE_SHORT`] and [`STEP_IS_SHORT`] for each token: somebody reads it,
/// so it goes on.
pub(crate) const LONG_STEPS: Rank = Rank::Nice(10);
/// For a grammar that takes longer than [`GRAMMAR_IS_SHORT`] to compile.
pub(crate) const LONG_GRAMMAR: Rank = Rank::Idle;

/// 50,000 tokens take less.
pub(crate) const PROMPT_IS_SHORT: Duration = Duration::from_millis(100);
/// A schema of a hundred properties takes less.
pub(crate) const GRAMMAR_IS_SHORT: Duration = Duration::from_millis(50);
/// An answer may compute for so long beside what its tokens may.
pub(crate) const STEPS_ARE_SHORT: Duration = Duration::from_millis(200);
/// A usual token takes a twentieth of it.
pub(crate) const STEP_IS_SHORT: Duration = Duration::from_millis(1);

/// Sets the rank of the calling thread. It cannot be raised again.
pub(crate) fn yield_to_others(rank: Rank) {
    #[cfg(target_os = "linux")]
    linux::set(linux::thread(), rank);
    #[cfg(not(target_os = "linux"))]
    let _ = rank;
}

/// Has the calling thread yield by so much once this process has computed for `after` from now on.
pub(crate) fn yield_later(after: Duration, rank: Rank) {
    #[cfg(target_os = "linux")]
    linux::set_later(after, rank);
    #[cfg(not(target_os = "linux"))]
    let _ = (after, rank);
}

/// Takes [`yield_later`] back.
pub(crate) fn yield_no_more() {
    #[cfg(target_os = "linux")]
    crate::limits::set_timer(libc::ITIMER_VIRTUAL, Duration::ZERO);
}

/// Whether that has happened.
pub(crate) fn has_yielded() -> bool {
    #[cfg(target_os = "linux")]
    return linux::HAS_YIELDED.load(std::sync::atomic::Ordering::Relaxed);
    #[cfg(not(target_os = "linux"))]
    return false;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
    use std::sync::{LazyLock, Once};
    use std::time::Duration;

    use super::Rank;
    use crate::limits;

    /// Of the helper, before it or a fork of it yields.
    static USUAL: LazyLock<i32> = LazyLock::new(|| {
        // SAFETY: 0 is the calling thread; the helper asks first, on its only one.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    });

    pub(super) static HAS_YIELDED: AtomicBool = AtomicBool::new(false);
    /// Which thread is to yield, and how much: a niceness, or [`IDLE`].
    static THREAD: AtomicI32 = AtomicI32::new(0);
    static RANK: AtomicI32 = AtomicI32::new(0);
    const IDLE: i32 = i32::MAX;
    /// The shortest that the kernel takes.
    const SLICE: Duration = Duration::from_micros(100);

    pub(super) fn thread() -> i32 {
        // SAFETY: no arguments.
        unsafe { libc::gettid() }
    }

    fn number(rank: Rank) -> i32 {
        match rank {
            Rank::Nice(steps) => *USUAL + steps,
            Rank::Idle => IDLE,
        }
    }

    pub(super) fn set(thread: i32, rank: Rank) {
        apply(thread, number(rank));
    }

    /// Only system calls: a signal's handler may do it.
    fn apply(thread: i32, rank: i32) {
        if rank == IDLE {
            let parameters = libc::sched_param { sched_priority: 0 };
            // SAFETY: the parameters are valid for the call; the thread is one of this process.
            unsafe { libc::sched_setscheduler(thread, libc::SCHED_IDLE, &raw const parameters) };
        } else if !set_nice_and_slice(thread, rank) {
            // SAFETY: plain numbers; the thread is one of this process.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, thread as libc::id_t, rank) };
        }
    }

    /// Sets the niceness, and how long a thread keeps a core that another waits for; kernels since 6.12 know it.
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

    pub(super) fn set_later(after: Duration, rank: Rank) {
        static ONCE: Once = Once::new();
        THREAD.store(thread(), Relaxed);
        RANK.store(number(rank), Relaxed);
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
        apply(THREAD.load(Relaxed), RANK.load(Relaxed));
    }
}
