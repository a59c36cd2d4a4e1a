//! The server's handles of sandboxed processes: helpers that it has started, and forks of helpers and of other forks.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::{self, Budget};
use crate::{Error, Sandbox, TooMuch, allocator, helper, wire};

/// A number that no fork has.
const NO_FORK: i32 = -1;

/// A process that forks on request. Dropping the handle ends the process and its forks.
#[derive(Debug)]
pub(crate) struct Parent {
    control: Mutex<UnixStream>,
    /// True if the process has ended or did not answer an order in time. Its answers could no longer be matched to
    /// orders.
    is_lost: AtomicBool,
    /// True if no more forks are asked of the process.
    is_retired: AtomicBool,
    /// The number of forks so far, which is also the number of the next fork.
    forks: AtomicI32,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    /// A helper, with a process group of its own.
    Started(Mutex<Child>),
    /// A fork of another process.
    Forked(Fork),
}

/// A fork and the socket to it. Dropping the handle ends the fork, without waiting for its end.
#[derive(Debug)]
pub(crate) struct Fork {
    pub socket: UnixStream,
    number: i32,
    parent: Option<Arc<Parent>>,
}

impl Parent {
    /// Starts a helper, which waits for its first frame.
    pub fn start(sandbox: &Sandbox) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(limits::CONTROL))?;
        ours.set_write_timeout(Some(limits::CONTROL))?;
        let mut command = Command::new(sandbox.program());
        command
            .arg0("millm")
            .arg(helper::ARGUMENT)
            // The server's environment may hold secrets.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        // The file of coverage counters, which the helper's program maps before it locks itself down.
        #[cfg(coverage)]
        command.envs(std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)));
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(limits::before_exec) };
        let child = command.spawn()?;
        let origin = Origin::Started(Mutex::new(child));
        Ok(Self {
            control: Mutex::new(ours),
            is_lost: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            forks: AtomicI32::new(0),
            origin,
        })
    }

    /// Makes a fork a parent of further forks: its socket takes orders from now on.
    pub fn of(fork: Fork) -> io::Result<Self> {
        let control = fork.socket.try_clone()?;
        control.set_read_timeout(Some(limits::CONTROL))?;
        let origin = Origin::Forked(fork);
        Ok(Self {
            control: Mutex::new(control),
            is_lost: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            forks: AtomicI32::new(0),
            origin,
        })
    }

    /// Runs `talk` on the control socket: an order and its answer, or the first frames.
    pub fn with_control<T>(&self, talk: impl FnOnce(&UnixStream) -> io::Result<T>) -> io::Result<T> {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_lost.load(Ordering::Relaxed) {
            return Err(io::Error::other("it is gone, or stopped"));
        }
        talk(&control).inspect_err(|_| self.is_lost.store(true, Ordering::Relaxed))
    }

    /// Has the process compile, once and within `budget`, what otherwise each of its forks would compile.
    pub fn keep(&self, budget: Budget) -> io::Result<()> {
        self.with_control(|control| {
            control.set_read_timeout(Some(budget.clock()))?;
            wire::order_keep(control)?;
            number(control)?;
            control.set_read_timeout(Some(limits::CONTROL))
        })
    }

    /// Orders a fork and returns without waiting for it. It starts within milliseconds; messages wait in its socket.
    pub fn fork(self: &Arc<Self>) -> io::Result<Fork> {
        if self.is_retired.load(Ordering::Relaxed) {
            return Err(io::Error::other("one of its forks did not answer"));
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(limits::ANSWER))?;
        ours.set_write_timeout(Some(limits::ANSWER))?;
        let number = self.forks.fetch_add(1, Ordering::Relaxed);
        self.with_control(|control| wire::order_fork(control, number, &theirs))?;
        Ok(Fork { socket: ours, number, parent: Some(Arc::clone(self)) })
    }

    /// Ends a fork, unless it has ended already. Returns its exit status, and whether somebody had stopped it. Returns
    /// `None` for a fork that is killed and has not ended within `patience`: that takes CPU time, which a busy machine may lack. It is
    /// one of [`Parent::ending`] then.
    fn end(&self, fork: i32, patience: Duration) -> io::Result<Option<(ExitStatus, bool)>> {
        let deadline = Instant::now() + patience;
        let mut was_stopped = false;
        loop {
            let [ended, status, stopped, _] = self.order_end(fork)?;
            was_stopped |= stopped != 0;
            if ended != 0 {
                return Ok(Some((ExitStatus::from_raw(status), was_stopped)));
            }
            if Instant::now() > deadline {
                self.forget(fork);
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn order_end(&self, fork: i32) -> io::Result<[i32; 4]> {
        self.with_control(|control| {
            wire::order_end(control, fork)?;
            Ok([number(control)?, number(control)?, number(control)?, number(control)?])
        })
    }

    /// Returns how many forks are killed and have not ended yet. They keep their memory until then.
    pub fn ending(&self) -> io::Result<usize> {
        let [.., ending] = self.order_end(NO_FORK)?;
        Ok(ending.max(0) as usize)
    }

    fn forget(&self, fork: i32) {
        // If this fails, the parent has ended, and its forks end with it.
        let _ = self.with_control(|control| wire::order_forget(control, fork));
    }

    /// Ends a process that does not answer, and its forks.
    fn abandon(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
        match &self.origin {
            Origin::Started(_) => drop(self.kill()),
            Origin::Forked(fork) => {
                let Some(parent) = &fork.parent else { return };
                // Its forks end when their sockets close. If its own parent does not answer either, that is ended too.
                if parent.end(fork.number, limits::CONTROL).is_err() {
                    parent.abandon();
                }
            }
        }
    }

    /// Ends a helper and its forks, and returns the helper's exit status. Returns `None` for a fork: its parent has the
    /// status.
    pub fn kill(&self) -> Option<ExitStatus> {
        let Origin::Started(child) = &self.origin else { return None };
        self.is_lost.store(true, Ordering::Relaxed);
        kill(&mut child.lock().unwrap_or_else(PoisonError::into_inner), 20)
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        if let Origin::Started(child) = &mut self.origin {
            kill(child.get_mut().unwrap_or_else(PoisonError::into_inner), 0);
        }
    }
}

/// Kills a helper and its process group. Waits up to `patience` milliseconds first: a helper whose socket is closed
/// ends by itself, and that exit status says why.
fn kill(child: &mut Child, patience: u32) -> Option<ExitStatus> {
    let process = Pid::from_child(child);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    for _ in 0..patience {
        if !matches!(waitid(WaitId::Pid(process), options), Ok(None)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // Its process id, which is also its group's, cannot be reused until it has been waited for.
    if waitid(WaitId::Pid(process), options).is_ok() {
        let _ = kill_process_group(process, Signal::KILL);
    }
    child.wait().ok()
}

fn number(mut control: &UnixStream) -> io::Result<i32> {
    let mut number = [0; 4];
    control.read_exact(&mut number)?;
    Ok(i32::from_le_bytes(number))
}

impl Fork {
    /// Sends a question to an idle fork and returns its answer. The fork confirms the question within `patience` and
    /// answers within the wall-clock time of `budget`.
    pub fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        question: &Q,
        patience: Duration,
        budget: Budget,
    ) -> Result<A, Silence> {
        let heard = || -> io::Result<bool> {
            self.socket.set_read_timeout(Some(patience))?;
            wire::send(&self.socket, question)?;
            let heard = wire::receive(&self.socket)?;
            self.socket.set_read_timeout(Some(budget.clock()))?;
            Ok(heard)
        };
        heard().map_err(Silence::Unheard)?;
        wire::receive(&self.socket).map_err(Silence::Unanswered)
    }

    /// Returns whether its parent is lost: another thread found the parent stopped or dead, so this fork ends too.
    pub fn is_orphan(&self) -> bool {
        self.parent.as_ref().is_some_and(|parent| parent.is_lost.load(Ordering::Relaxed))
    }

    /// Waits until the fork confirms that it runs.
    pub fn wait_until_ready(&self) -> io::Result<()> {
        self.socket.set_read_timeout(Some(limits::HEARD))?;
        wire::receive::<bool>(&self.socket).map(drop)
    }

    /// Ends a fork that failed with `error`, and returns the reason: the budget that it exceeded, if any.
    pub fn post_mortem(mut self, error: &io::Error, budget: Budget) -> Error {
        let Some(parent) = self.parent.take() else { return Error::Unavailable(error.to_string()) };
        // One that closed its socket is ending by itself, and only its status says why.
        let patience = if is_timeout(error) { limits::CONTROL } else { limits::ANSWER };
        match parent.end(self.number, patience) {
            Ok(Some((_, true))) => Error::Unavailable("it is stopped".to_owned()),
            Ok(_) if is_timeout(error) => Error::TooMuch(TooMuch::Clock(budget.clock())),
            Ok(Some((status, _))) => why(status, budget),
            Ok(None) => Error::Unavailable("it is about to end".to_owned()),
            Err(error) => {
                // The parent is stopped or has ended too. The next caller starts another one.
                parent.abandon();
                Error::Unavailable(error.to_string())
            }
        }
    }

    /// Does the same as [`Fork::post_mortem`] on another thread, and returns where the reason will arrive.
    pub fn post_mortem_later(self, error: io::Error, budget: Budget) -> Receiver<Error> {
        let (sender, outcome) = channel();
        reap(Dropped::Examined { fork: self, error, budget, sender });
        outcome
    }

    /// Ends a fork that has not answered, without waiting for its end. Its parent may be stopped too, so no more forks
    /// are asked of it.
    pub fn give_up(mut self) {
        if let Some(parent) = self.parent.take() {
            parent.is_retired.store(true, Ordering::Relaxed);
            reap(Dropped::Stuck { parent, number: self.number });
        }
    }
}

/// The stage at which a fork stopped answering.
#[derive(Debug)]
pub(crate) enum Silence {
    /// It had ended or was stopped before it received the question.
    Unheard(io::Error),
    /// It confirmed the question and did not answer.
    Unanswered(io::Error),
}

impl Silence {
    pub fn error(&self) -> &io::Error {
        let (Self::Unheard(error) | Self::Unanswered(error)) = self;
        error
    }
}

/// Returns whether a call on a socket timed out.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Returns the reason for the unexpected end of a process.
pub(crate) fn why(status: ExitStatus, budget: Budget) -> Error {
    match (status.code(), status.signal()) {
        (Some(allocator::EXIT_OUT_OF_MEMORY), _) => Error::TooMuch(TooMuch::Memory(budget.memory)),
        (_, Some(libc::SIGPROF)) => Error::TooMuch(TooMuch::Time(budget.cpu)),
        // A stack overflow ends a process by one of these.
        (_, Some(libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS)) => Error::TooMuch(TooMuch::Stack),
        _ => Error::Unavailable(format!("it ended unexpectedly ({status})")),
    }
}

/// A fork that is no longer needed.
enum Dropped {
    /// It has done its work.
    Idle { parent: Arc<Parent>, number: i32 },
    /// It did not answer, so its parent may not answer either.
    Stuck { parent: Arc<Parent>, number: i32 },
    /// It ended, and a caller waits for the reason.
    Examined { fork: Fork, error: io::Error, budget: Budget, sender: Sender<Error> },
}

impl Dropped {
    fn reap(self) {
        match self {
            Self::Idle { parent, number } => parent.forget(number),
            Self::Stuck { parent, number } => {
                if parent.end(number, limits::CONTROL).is_err() {
                    parent.abandon();
                }
            }
            // The caller may have stopped waiting.
            Self::Examined { fork, error, budget, sender } => {
                let _ = sender.send(fork.post_mortem(&error, budget));
            }
        }
    }
}

/// Hands a dropped fork to a background thread. Talking to its parent may block, and an engine's thread drops forks
/// between steps.
fn reap(dropped: Dropped) {
    static REAPER: OnceLock<Option<Sender<Dropped>>> = OnceLock::new();
    let start = || {
        let (sender, all) = channel::<Dropped>();
        let reap = move || all.into_iter().for_each(Dropped::reap);
        let thread = std::thread::Builder::new().name("millm-sandbox".to_owned()).spawn(reap);
        thread.ok().map(|_| sender)
    };
    match REAPER.get_or_init(start) {
        Some(reaper) => drop(reaper.send(dropped)),
        None => dropped.reap(),
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        if let Some(parent) = self.parent.take() {
            reap(Dropped::Idle { parent, number: self.number });
        }
    }
}
