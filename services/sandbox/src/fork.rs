//! The server's side of processes: a helper that was started, and forks of it or of forks.

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

/// A process that forks when it is told to. Dropping it ends it and all that came of it.
#[derive(Debug)]
pub(crate) struct Parent {
    control: Mutex<UnixStream>,
    /// It is gone, or an order was not answered in time: what comes now may be its answer.
    is_lost: AtomicBool,
    /// Whether it forks no more.
    is_retired: AtomicBool,
    /// How many forks there have been: their numbers.
    forks: AtomicI32,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    /// A program of its own, with a process group of its own.
    Started(Mutex<Child>),
    /// A fork of another.
    Forked(Fork),
}

/// A fork at work, and the socket to it. Dropping it ends it, without waiting for that.
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
            // Nothing of the server's environment, which may hold secrets.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
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

    /// A fork that can be forked itself: its socket is for orders from now on.
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

    /// Talks to it: an order and its answer, or the first frames.
    pub fn with_control<T>(&self, talk: impl FnOnce(&UnixStream) -> io::Result<T>) -> io::Result<T> {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_lost.load(Ordering::Relaxed) {
            return Err(io::Error::other("it is gone, or stopped"));
        }
        talk(&control).inspect_err(|_| self.is_lost.store(true, Ordering::Relaxed))
    }

    /// Has it do once what its forks would have to do each, within `budget`.
    pub fn keep(&self, budget: Budget) -> io::Result<()> {
        self.with_control(|control| {
            control.set_read_timeout(Some(budget.clock()))?;
            wire::order_keep(control)?;
            number(control)?;
            control.set_read_timeout(Some(limits::CONTROL))
        })
    }

    /// A fork, which may take milliseconds to be there; what is said to it meanwhile waits in its socket.
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

    /// Ends a fork, or finds it ended, and says how, and whether it was stopped.
    fn end(&self, fork: i32) -> io::Result<(ExitStatus, bool)> {
        let deadline = Instant::now() + limits::CONTROL;
        let mut was_stopped = false;
        loop {
            let [ended, status, stopped] = self.with_control(|control| {
                wire::order_end(control, fork)?;
                Ok([number(control)?, number(control)?, number(control)?])
            })?;
            was_stopped |= stopped != 0;
            if ended != 0 {
                return Ok((ExitStatus::from_raw(status), was_stopped));
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn forget(&self, fork: i32) {
        // Where that fails, all is ended anyway.
        let _ = self.with_control(|control| wire::order_forget(control, fork));
    }

    /// Ends it when it does not answer, with all that came of it.
    fn abandon(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
        match &self.origin {
            Origin::Started(_) => drop(self.kill()),
            Origin::Forked(fork) => {
                let Some(parent) = &fork.parent else { return };
                // Its forks end with their sockets. Where its own parent does not answer either, that goes too.
                if parent.end(fork.number).is_err() {
                    parent.abandon();
                }
            }
        }
    }

    /// Ends a helper with all that came of it, and says how it ended; `None` for a fork, whose parent knows.
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

/// A helper whose socket is closed is about to end by itself, and how it does is worth knowing: that may take so many
/// milliseconds.
fn kill(child: &mut Child, patience: u32) -> Option<ExitStatus> {
    let process = Pid::from_child(child);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    for _ in 0..patience {
        if !matches!(waitid(WaitId::Pid(process), options), Ok(None)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // Until it has been waited for, its number, which is its group's, is its own.
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
    /// Asks a fork that waits for something to do. It says within `patience` that it has heard, and answers within what
    /// `budget` has on the clock.
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

    /// Whether what it was forked of is gone, and it with that: somebody else found it stopped or dead.
    pub fn is_orphan(&self) -> bool {
        self.parent.as_ref().is_some_and(|parent| parent.is_lost.load(Ordering::Relaxed))
    }

    /// Waits until it says that it is there.
    pub fn is_there(&self) -> io::Result<()> {
        self.socket.set_read_timeout(Some(limits::HEARD))?;
        wire::receive::<bool>(&self.socket).map(drop)
    }

    /// What became of a process that did not answer, or answered with `error`, while it had this budget.
    pub fn post_mortem(mut self, error: &io::Error, budget: Budget) -> Error {
        let Some(parent) = self.parent.take() else { return Error::Unavailable(error.to_string()) };
        match parent.end(self.number) {
            Ok((_, true)) => Error::Unavailable("it is stopped".to_owned()),
            Ok(_) if is_timeout(error) => Error::TooMuch(TooMuch::Clock(budget.clock())),
            Ok((status, _)) => why(status, budget),
            Err(error) => {
                // It is stopped itself, or gone: whoever comes next has another.
                parent.abandon();
                Error::Unavailable(error.to_string())
            }
        }
    }

    /// The same for who cannot wait: what became of it comes later.
    pub fn post_mortem_later(self, error: io::Error, budget: Budget) -> Receiver<Error> {
        let (sender, outcome) = channel();
        bury(Dropped::Examined { fork: self, error, budget, sender });
        outcome
    }

    /// Ends it when it has not answered, without waiting for that. Its parent, which may be stopped too, forks no more.
    pub fn give_up(mut self) {
        if let Some(parent) = self.parent.take() {
            parent.is_retired.store(true, Ordering::Relaxed);
            bury(Dropped::Stuck { parent, number: self.number });
        }
    }
}

/// Why a fork gave no answer.
#[derive(Debug)]
pub(crate) enum Silence {
    /// It was gone or stopped before it was asked.
    Unheard(io::Error),
    Unanswered(io::Error),
}

impl Silence {
    pub fn error(&self) -> &io::Error {
        let (Self::Unheard(error) | Self::Unanswered(error)) = self;
        error
    }
}

/// Whether a socket's time was up.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Why a process ended that should not have.
pub(crate) fn why(status: ExitStatus, budget: Budget) -> Error {
    match (status.code(), status.signal()) {
        (Some(allocator::EXIT_OUT_OF_MEMORY), _) => Error::TooMuch(TooMuch::Memory(budget.memory)),
        (_, Some(libc::SIGPROF)) => Error::TooMuch(TooMuch::Time(budget.cpu)),
        // A stack that overflows ends by one of these.
        (_, Some(libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS)) => Error::TooMuch(TooMuch::Stack),
        _ => Error::Unavailable(format!("it ended unexpectedly ({status})")),
    }
}

/// A fork that nobody needs any more.
enum Dropped {
    Idle {
        parent: Arc<Parent>,
        number: i32,
    },
    /// It did not answer, so perhaps its parent does not either.
    Stuck {
        parent: Arc<Parent>,
        number: i32,
    },
    /// It ended, and somebody waits to hear why.
    Examined {
        fork: Fork,
        error: io::Error,
        budget: Budget,
        sender: Sender<Error>,
    },
}

impl Dropped {
    fn bury(self) {
        match self {
            Self::Idle { parent, number } => parent.forget(number),
            Self::Stuck { parent, number } => {
                if parent.end(number).is_err() {
                    parent.abandon();
                }
            }
            // Who waited may have left.
            Self::Examined { fork, error, budget, sender } => {
                let _ = sender.send(fork.post_mortem(&error, budget));
            }
        }
    }
}

/// Whoever drops a fork must not wait for its parent to be ready to hear of it: an engine's thread drops them between
/// steps.
fn bury(dropped: Dropped) {
    static UNDERTAKER: OnceLock<Option<Sender<Dropped>>> = OnceLock::new();
    let start = || {
        let (sender, all) = channel::<Dropped>();
        let bury = move || all.into_iter().for_each(Dropped::bury);
        let thread = std::thread::Builder::new().name("millm-sandbox".to_owned()).spawn(bury);
        thread.ok().map(|_| sender)
    };
    match UNDERTAKER.get_or_init(start) {
        Some(undertaker) => drop(undertaker.send(dropped)),
        None => dropped.bury(),
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        if let Some(parent) = self.parent.take() {
            bury(Dropped::Idle { parent, number: self.number });
        }
    }
}
