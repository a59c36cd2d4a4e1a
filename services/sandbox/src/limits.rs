//! What a sandboxed process may use, set by the process itself and kept by the kernel and the allocator: memory, computing
//! time, stack, and no files, no network, no other programs.

use std::time::Duration;

use crate::allocator;

/// What one piece of work may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Bytes beyond what the process has.
    pub memory: usize,
    /// Computing time, not time on the clock: a busy machine makes nobody fail.
    pub cpu: Duration,
}

impl Budget {
    /// How long the server waits for it on the clock: others compute too.
    pub fn clock(self) -> Duration {
        2 * self.cpu
    }
}

/// Of each process's main thread, and of the threads that compile.
pub(crate) const STACK: usize = 64 << 20;

/// A tokenizer of `bytes` bytes as published. 150,000 tokens in 7 MB took 290 MB and 1.2 s, 300,000 in 21 MB 430 MB and
/// 2.3 s, on a machine that was building; a slower machine must be able to load them too.
pub(crate) fn tokenizer(bytes: usize) -> Budget {
    let cpu = Duration::from_secs(4) + Duration::from_nanos(400).saturating_mul(at_most_u32(bytes));
    Budget { memory: (256 << 20) + bytes.saturating_mul(32), cpu: cpu.min(OPENING) }
}

/// Compiling a chat template.
pub(crate) const TEMPLATE: Budget = Budget { memory: 128 << 20, cpu: Duration::from_secs(2) };

/// Rendering and tokenizing a prompt of `bytes` bytes: 120 bytes for each byte of text are usual, and a template may make
/// a megabyte of nothing. A long text has a second more for each megabyte.
pub(crate) fn prompt(bytes: usize) -> Budget {
    let memory = (192 << 20) + bytes.saturating_mul(160);
    let cpu = Duration::from_secs(2) + Duration::from_micros(1).saturating_mul(at_most_u32(bytes));
    Budget { memory: memory.min(1 << 30), cpu: cpu.min(OPENING) }
}

fn at_most_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A model's vocabulary as a trie.
pub(crate) const VOCABULARY: Budget = Budget { memory: 512 << 20, cpu: Duration::from_secs(4) };
/// Compiling one grammar, its first mask included.
pub(crate) const GRAMMAR: Budget = Budget { memory: 256 << 20, cpu: Duration::from_secs(2) };
/// One step of an answer through its grammar: accepting a token, and the next mask.
pub(crate) const STEP: Duration = Duration::from_secs(1);
/// All steps of one answer together.
pub(crate) const STEPS_MEMORY: usize = 128 << 20;

/// On the clock, for a step of an answer through its grammar: longer, and it is stopped.
pub(crate) const ANSWER: Duration = Duration::from_secs(4);
/// For one that has waited to say that it has heard. One that has not is replaced.
pub(crate) const HEARD: Duration = Duration::from_millis(500);
/// The same for a new one.
pub(crate) const FORKED: Duration = Duration::from_secs(2);
/// The same for building a tokenizer, beside which loads have other work.
pub(crate) const OPENING: Duration = Duration::from_secs(30);
/// For what takes microseconds: a fork, a kill.
pub(crate) const CONTROL: Duration = Duration::from_millis(900);

/// Caps what this process allocates from now on, and ends it by `SIGPROF` when it computes for longer.
pub(crate) fn begin(budget: Budget) {
    allocator::cap(budget.memory);
    time(budget.cpu);
}

/// Ends this process by `SIGPROF` when it computes for longer than `cpu` from now on; zero is without end.
pub(crate) fn time(cpu: Duration) {
    set_timer(libc::ITIMER_PROF, cpu);
}

/// Sets one of this process's timers, once; zero stops it.
pub(crate) fn set_timer(which: libc::c_int, after: Duration) {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let value = libc::timeval { tv_sec: after.as_secs() as _, tv_usec: after.subsec_micros() as _ };
    let timer = libc::itimerval { it_interval: none, it_value: value };
    // SAFETY: the timer is valid for the call; the old one is not asked for.
    unsafe { libc::setitimer(which as _, &raw const timer, std::ptr::null_mut()) };
}

/// Computing time of this process since it was forked.
pub(crate) fn computed() -> Duration {
    let usage = usage();
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// The most memory that this process had since it was forked, in bytes.
pub(crate) fn peak_memory() -> usize {
    // macOS has bytes here, others have KiB.
    usage().ru_maxrss.max(0) as usize * if cfg!(target_os = "macos") { 1 } else { 1024 }
}

fn usage() -> libc::rusage {
    // SAFETY: all of it is plain numbers, and valid for the call.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    }
}

/// Before a helper's program starts, in its process.
pub(crate) fn before_exec() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let set = |resource: Resource, wanted: u64| {
        let most = getrlimit(resource).maximum;
        let value = most.map_or(wanted, |most| most.min(wanted));
        setrlimit(resource, Rlimit { current: Some(value), maximum: most })
    };
    // The main thread's stack is as large as it is allowed to become when the program starts.
    set(Resource::Stack, STACK as u64)?;
    set(Resource::Core, 0)?;
    // Behind the allocator's count, for what C libraries allocate. It counts address space too, of which allocators take
    // more than they use.
    #[cfg(target_os = "linux")]
    set(Resource::Data, 4 << 30)?;
    Ok(())
}

/// When the helper's program has started: nothing but what it holds already.
pub(crate) fn lock_down() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: these calls take plain numbers, and a text that lives for ever.
        unsafe {
            libc::prctl(libc::PR_SET_NAME, c"millm-sandbox".as_ptr(), 0, 0, 0);
            libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        }
        // Where the kernel has no filters the other limits hold all the same.
        let _ = filter::apply();
    }
}

#[cfg(target_os = "linux")]
mod filter {
    //! Calls that reach out of the process fail with EPERM.

    use std::collections::BTreeMap;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

    const REFUSED: &[libc::c_long] = &[
        // Files.
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_open_by_handle_at,
        libc::SYS_unlinkat,
        libc::SYS_renameat2,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        libc::SYS_truncate,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_chroot,
        libc::SYS_chdir,
        // The network.
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept4,
        // Other programs.
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_setns,
        libc::SYS_unshare,
        // The kernel's larger doors.
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_init_module,
        libc::SYS_kexec_load,
    ];

    /// Older names of the same, on the machines that have them.
    #[cfg(target_arch = "x86_64")]
    const OLDER: &[libc::c_long] = &[
        libc::SYS_open,
        libc::SYS_creat,
        libc::SYS_unlink,
        libc::SYS_rmdir,
        libc::SYS_rename,
        libc::SYS_mkdir,
        libc::SYS_mknod,
        libc::SYS_link,
        libc::SYS_symlink,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_accept,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const OLDER: &[libc::c_long] = &[];

    pub(super) fn apply() -> Result<(), seccompiler::Error> {
        let Ok(machine) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
        let rules: BTreeMap<i64, Vec<_>> =
            REFUSED.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, machine)?;
        let program: BpfProgram = filter.try_into()?;
        seccompiler::apply_filter(&program)
    }
}
