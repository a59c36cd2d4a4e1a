//! The budgets of sandboxed processes: memory, CPU time and stack, and no files, no network, no other programs. Each
//! process sets its own budget; the kernel and the allocator enforce it.

use std::time::Duration;

use crate::allocator;

/// The budget of one piece of work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Bytes beyond those that the process has already.
    pub memory: usize,
    /// CPU time, not wall-clock time: no work fails because the machine is busy.
    pub cpu: Duration,
}

impl Budget {
    /// Returns the wall-clock time that the server waits. It is longer than the CPU time, because other programs use
    /// the cores too.
    pub fn clock(self) -> Duration {
        2 * self.cpu
    }
}

/// The stack of each process's main thread, and of the threads that compile.
pub(crate) const STACK: usize = 64 << 20;

/// Returns the budget for building a tokenizer from files of `bytes` bytes. On a busy machine, 150,000 tokens in 7 MB
/// took 290 MB and 1.2 s; 300,000 tokens in 21 MB took 430 MB and 2.3 s. A slower machine must be able to load them
/// too.
pub(crate) fn tokenizer(bytes: usize) -> Budget {
    let cpu = Duration::from_secs(4) + Duration::from_nanos(400).saturating_mul(at_most_u32(bytes));
    Budget { memory: (256 << 20) + bytes.saturating_mul(32), cpu: cpu.min(OPENING) }
}

/// Compiling a chat template.
pub(crate) const TEMPLATE: Budget = Budget { memory: 128 << 20, cpu: Duration::from_secs(2) };

/// Returns the budget for rendering and tokenizing a prompt of `bytes` bytes. Tokenizing usually takes 120 bytes of
/// memory for each byte of text, and a template may render a megabyte from an empty conversation. Each megabyte adds
/// a second.
pub(crate) fn prompt(bytes: usize) -> Budget {
    let memory = (192 << 20) + bytes.saturating_mul(160);
    let cpu = Duration::from_secs(2) + Duration::from_micros(1).saturating_mul(at_most_u32(bytes));
    Budget { memory: memory.min(1 << 30), cpu: cpu.min(OPENING) }
}

fn at_most_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Building a trie of a model's vocabulary.
pub(crate) const VOCABULARY: Budget = Budget { memory: 512 << 20, cpu: Duration::from_secs(4) };
/// Compiling one grammar, its first mask included.
pub(crate) const GRAMMAR: Budget = Budget { memory: 256 << 20, cpu: Duration::from_secs(2) };
/// Grammars' forks that are killed and have not ended yet. With more, no grammar is compiled: each may hold the memory of
/// its budget.
pub(crate) const ENDING: usize = 8;
/// CPU time of one step of an answer through its grammar: accepting a token and computing the next mask.
pub(crate) const STEP: Duration = Duration::from_secs(1);
/// Memory of all steps of one answer together.
pub(crate) const STEPS_MEMORY: usize = 128 << 20;

/// Wall-clock time of one step of an answer. A process that takes longer is taken to be stopped.
pub(crate) const ANSWER: Duration = Duration::from_secs(4);
/// Wall-clock time in which an idle fork confirms a question. A fork that does not is replaced.
pub(crate) const HEARD: Duration = Duration::from_millis(500);
/// Wall-clock time in which a new fork confirms a question.
pub(crate) const FORKED: Duration = Duration::from_secs(2);
/// Wall-clock time in which a helper builds a tokenizer. A load does other work at the same time.
pub(crate) const OPENING: Duration = Duration::from_secs(30);
/// Wall-clock time of orders that take microseconds: a fork, a kill.
pub(crate) const CONTROL: Duration = Duration::from_millis(900);

/// Caps the memory that this process allocates from now on, and ends it by `SIGPROF` when it uses more CPU time.
pub(crate) fn begin(budget: Budget) {
    allocator::cap(budget.memory);
    time(budget.cpu);
}

/// Ends this process by `SIGPROF` when it uses more CPU time than `cpu` from now on. Zero removes the limit.
pub(crate) fn time(cpu: Duration) {
    set_timer(libc::ITIMER_PROF, cpu);
}

/// Sets one of this process's timers, once; zero stops it.
pub(crate) fn set_timer(which: libc::c_int, after: Duration) {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let value = libc::timeval { tv_sec: after.as_secs() as _, tv_usec: after.subsec_micros() as _ };
    let timer = libc::itimerval { it_interval: none, it_value: value };
    // SAFETY: the timer is valid for the call, and a null pointer means that the old value is not wanted.
    unsafe { libc::setitimer(which as _, &raw const timer, std::ptr::null_mut()) };
}

/// Returns the CPU time of this process since it was forked.
pub(crate) fn computed() -> Duration {
    let usage = usage();
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// Returns the peak resident memory of this process since it was forked, in bytes.
pub(crate) fn peak_memory() -> usize {
    // `ru_maxrss` is in bytes on macOS and in KiB elsewhere.
    usage().ru_maxrss.max(0) as usize * if cfg!(target_os = "macos") { 1 } else { 1024 }
}

fn usage() -> libc::rusage {
    // SAFETY: the struct has only plain numbers, for which zeros are valid, and lives through the call.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    }
}

/// Sets the resource limits of a helper, in its process, before its program starts.
pub(crate) fn before_exec() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let set = |resource: Resource, wanted: u64| {
        let most = getrlimit(resource).maximum;
        let value = most.map_or(wanted, |most| most.min(wanted));
        setrlimit(resource, Rlimit { current: Some(value), maximum: most })
    };
    // The limit at the program's start decides how far the main thread's stack can grow.
    set(Resource::Stack, STACK as u64)?;
    set(Resource::Core, 0)?;
    // The allocator's count does not see what C libraries allocate. This limit is wide, because it counts address
    // space, and allocators reserve more than they use.
    #[cfg(target_os = "linux")]
    set(Resource::Data, 4 << 30)?;
    Ok(())
}

/// Takes from the helper, once its program has started, everything but the descriptors and memory that it has.
pub(crate) fn lock_down() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: these calls take plain numbers, and a text that lives for ever.
        unsafe {
            libc::prctl(libc::PR_SET_NAME, c"millm-sandbox".as_ptr(), 0, 0, 0);
            libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        }
        // Without filters in the kernel the other limits still hold.
        let _ = filter::apply();
    }
}

#[cfg(target_os = "linux")]
mod filter {
    //! A seccomp filter: system calls that reach out of the process fail with EPERM.

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
        // Parts of the kernel with a large attack surface.
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_init_module,
        libc::SYS_kexec_load,
    ];

    /// Older calls that do the same, on the machines that have them.
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
