//! The server's end of one answer's grammar. The process at the other end accepts tokens and computes masks while the
//! server does something else. No call waits longer than its caller says.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;

use crate::fork::{Fork, Parent};
use crate::limits::{self, Budget};
use crate::wire::Step;
use crate::{Error, TooMuch};

const BUDGET: Budget = Budget { memory: limits::STEPS_MEMORY, cpu: limits::STEP };
const READ: usize = 1 << 16;

/// Holds one answer to its grammar.
#[derive(Debug)]
pub struct Constraint {
    /// `None` after an error.
    fork: Option<Fork>,
    buffer: Vec<u8>,
    mask: Option<Vec<u32>>,
    complete: Option<bool>,
    /// The time of the last question to the process.
    asked: Instant,
    /// Set when the process has ended; receives the reason.
    ended: Option<Receiver<Error>>,
}

/// The tokens that may come next, as far as they are known.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// The mask is still being computed.
    Pending,
    /// No token may come: the answer is valid and nothing can follow.
    Complete,
    /// The allowed tokens: a bit for each id, 32 in a word, the lowest first. Ids beyond the mask are not allowed.
    Mask(&'a [u32]),
}

impl Constraint {
    /// Begins an answer in a new fork of a compiled grammar; `mask` has the tokens that an answer may begin with.
    /// Blocks until the fork answers, because its parent may have been stopped since it compiled.
    pub(crate) fn begin(parent: &Arc<Parent>, mask: Vec<u32>) -> Result<Self, Error> {
        let fork = parent.fork().map_err(|error| Error::Unavailable(error.to_string()))?;
        if let Err(error) = fork.wait_until_ready() {
            fork.give_up();
            return Err(Error::Unavailable(error.to_string()));
        }
        Ok(Self {
            fork: Some(fork),
            buffer: Vec::new(),
            mask: Some(mask),
            complete: Some(false),
            asked: Instant::now(),
            ended: None,
        })
    }

    /// Returns the tokens that may come next, after waiting for them for at most `wait`.
    ///
    /// # Errors
    /// [`Error::Refused`] if the grammar cannot be followed further, [`Error::TooMuch`] if the process exceeded a
    /// budget, and [`Error::Unavailable`] if it has ended or does not answer. After an error each call returns
    /// [`Error::Unavailable`].
    pub fn next(&mut self, wait: Duration) -> Result<Next<'_>, Error> {
        self.until(wait, |it| it.mask.is_some() || it.complete == Some(true))?;
        match &self.mask {
            _ if self.complete == Some(true) => Ok(Next::Complete),
            Some(mask) => Ok(Next::Mask(mask)),
            None => Ok(Next::Pending),
        }
    }

    /// Returns whether the answer is complete with the last accepted token, or `None` if that is not known within
    /// `wait`.
    ///
    /// # Errors
    /// The same as for [`Constraint::next`].
    pub fn is_complete(&mut self, wait: Duration) -> Result<Option<bool>, Error> {
        self.until(wait, |it| it.complete.is_some())?;
        Ok(self.complete)
    }

    /// Accepts the chosen token, which [`Constraint::next`] allowed. The process computes the next mask meanwhile.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the process has ended, or if no mask was received for this token.
    pub fn accept(&mut self, token: u32) -> Result<(), Error> {
        if self.mask.is_none() {
            return Err(Error::Unavailable("it has not said what may come".to_owned()));
        }
        (self.mask, self.complete, self.asked) = (None, None, Instant::now());
        let fork = self.fork.as_mut().ok_or_else(gone)?;
        if let Err(error) = fork.socket.write_all(&token.to_le_bytes()) {
            // The next call of `next` returns the reason.
            self.examine(error)?;
        }
        Ok(())
    }

    fn until(&mut self, wait: Duration, done: fn(&Self) -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + wait;
        loop {
            if done(self) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(ended) = &self.ended {
                return match ended.recv_timeout(left) {
                    Err(RecvTimeoutError::Timeout) => Ok(()),
                    Ok(error) => Err(self.over(error)),
                    Err(RecvTimeoutError::Disconnected) => Err(self.over(gone())),
                };
            }
            let taken = match Step::take(&mut self.buffer) {
                Ok(None) => self.receive().and_then(|()| Step::take(&mut self.buffer)),
                taken => taken,
            };
            match taken {
                Ok(Some(Step::Accepted { complete })) => self.complete = Some(complete),
                Ok(Some(Step::Mask(mask))) => self.mask = Some(mask),
                Ok(Some(Step::Failed(why))) => {
                    self.fork = None;
                    return Err(Error::Refused(why));
                }
                Ok(None) if self.asked.elapsed() > limits::ANSWER => return Err(self.give_up()),
                Ok(None) if left.is_zero() => return Ok(()),
                Ok(None) => self.wait(left).or_else(|error| self.examine(error))?,
                Err(error) => self.examine(error)?,
            }
        }
    }

    /// Appends the received bytes to the buffer, without waiting for more.
    fn receive(&mut self) -> io::Result<()> {
        let Some(fork) = &self.fork else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let before = self.buffer.len();
        self.buffer.resize(before + READ, 0);
        let received = rustix::net::recv(&fork.socket, &mut self.buffer[before..], RecvFlags::DONTWAIT);
        let count = match received {
            Ok((_, 0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, count)) => Ok(count),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        };
        self.buffer.truncate(before + *count.as_ref().unwrap_or(&0));
        count.map(drop)
    }

    fn wait(&self, most: Duration) -> io::Result<()> {
        let Some(fork) = &self.fork else { return Ok(()) };
        let socket = fork.socket.as_fd();
        let most = Timespec { tv_sec: most.as_secs() as _, tv_nsec: most.subsec_nanos() as _ };
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&most)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has another thread find out why the process ended. An engine's thread must not wait for that.
    fn examine(&mut self, error: io::Error) -> Result<(), Error> {
        let fork = self.fork.take().ok_or_else(gone)?;
        self.ended = Some(fork.post_mortem_later(error, BUDGET));
        Ok(())
    }

    /// Ends a process that does not answer. Its CPU budget would have ended it by now if it were running, so somebody
    /// has stopped it.
    fn give_up(&mut self) -> Error {
        if let Some(fork) = self.fork.take() {
            fork.give_up();
        }
        Error::Unavailable("it does not answer".to_owned())
    }

    fn over(&mut self, error: Error) -> Error {
        self.ended = None;
        match error {
            Error::TooMuch(TooMuch::Time(most)) => {
                Error::Refused(format!("a single token takes more than {} s of computing", most.as_secs()))
            }
            other => other,
        }
    }
}

fn gone() -> Error {
    Error::Unavailable("it has ended".to_owned())
}
