//! The server's end of a model's tokenizer and chat template: a helper that holds both, and workers. A worker is a fork
//! of the helper that works on one prompt after the other.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use millm_model::TokenizerFiles;

use crate::fork::{Fork, Parent, Silence, is_timeout, why};
use crate::limits::{self, Budget};
use crate::tokenizer::Detokenizer;
use crate::wire::{self, Chat, Done, Opened, Opening, Task};
use crate::{Error, Sandbox};

/// A model's tokenizer and chat template. Shared between threads; each call runs in another process.
#[derive(Debug)]
pub struct Language {
    helper: Helper,
    detokenizer: Detokenizer,
    /// True if there is a template, or the reason why it cannot be used.
    template: Result<bool, String>,
    /// The idle workers.
    workers: Mutex<Vec<Worker>>,
}

impl Language {
    /// Starts a helper that builds the tokenizer, and compiles the template in a fork of it. Blocks until then.
    ///
    /// # Errors
    /// [`Error::Model`] if the tokenizer's files are wrong or exceed a budget, and [`Error::Unavailable`] if the
    /// sandbox fails. A template that cannot be used is not an error here: see [`Language::has_template`].
    pub fn open(sandbox: &Sandbox, files: TokenizerFiles) -> Result<Self, Error> {
        let opening = Opening::Language(Box::new(files));
        let mut helper = Helper::new(sandbox, &opening)?;
        helper.budget = limits::tokenizer(helper.bytes);
        let opened = helper.start().map_err(|error| match error {
            Error::TooMuch(limit) => Error::Model(millm_model::Error::Tokenizer(limit.to_string())),
            other => other,
        })?;
        let Opened::Language(detokenizer) = opened else {
            return Err(Error::Unavailable("it answered something else".to_owned()));
        };
        detokenizer.check()?;
        let mut language = Self { helper, detokenizer, template: Ok(false), workers: Mutex::default() };
        language.template = match language.run(&Task::TryTemplate) {
            Ok(Done::Template(found)) => Ok(found),
            Ok(_) => Err("it answered something else".to_owned()),
            Err(Error::Unavailable(why)) => return Err(Error::Unavailable(why)),
            Err(Error::Model(millm_model::Error::Template(why))) => Err(why),
            Err(error) => Err(error.to_string()),
        };
        if language.has_template() == Ok(true) {
            match language.helper.keep_from_now_on() {
                Ok(()) => {}
                // The first time it was just within the budget, and the second time not.
                Err(Error::TooMuch(limit)) => language.template = Err(limit.to_string()),
                Err(error) => return Err(error),
            }
            // Older forks lack the compiled template.
            language.workers().clear();
        }
        Ok(language)
    }

    /// Returns the detokenizer, which turns token ids into text.
    pub fn detokenizer(&self) -> &Detokenizer {
        &self.detokenizer
    }

    /// Returns whether the model has a chat template.
    ///
    /// # Errors
    /// Returns the reason if the template cannot be used.
    pub fn has_template(&self) -> Result<bool, &str> {
        self.template.as_ref().copied().map_err(String::as_str)
    }

    /// Tokenizes a text, as [`crate::Tokenizer::encode`] does.
    ///
    /// # Errors
    /// [`Error::Model`] if the tokenizer fails, [`Error::TooMuch`] if the text exceeds a budget, and
    /// [`Error::Unavailable`] if the sandbox fails.
    pub fn encode(&self, text: String, add_special: bool) -> Result<Vec<u32>, Error> {
        self.tokens(&Task::Encode { text, add_special })
    }

    /// Renders a conversation with the chat template, and tokenizes the result.
    ///
    /// # Errors
    /// [`Error::Model`] if the template or the tokenizer fails, [`Error::TooLong`] if the rendered text is longer than
    /// [`Chat::most_bytes`], [`Error::TooMuch`] if the conversation exceeds a budget, and [`Error::Unavailable`] if the
    /// sandbox fails.
    pub fn chat(&self, chat: Chat) -> Result<Vec<u32>, Error> {
        self.tokens(&Task::Chat(chat))
    }

    fn tokens(&self, task: &Task) -> Result<Vec<u32>, Error> {
        match self.run(task)? {
            Done::Tokens(tokens) => Ok(tokens),
            Done::TooLong(bytes) => Err(Error::TooLong(bytes)),
            _ => Err(Error::Unavailable("it answered something else".to_owned())),
        }
    }

    /// Has an idle worker do a task, or a new one.
    fn run(&self, task: &Task) -> Result<Done, Error> {
        while let Some(worker) = self.idle() {
            match worker.fork.ask(task, limits::HEARD, task.budget()) {
                Ok(done) => return self.keep(worker, done),
                // The next idle worker, or a new one, replaces it.
                Err(Silence::Unheard(_)) => drop(worker),
                Err(Silence::Unanswered(_)) if worker.fork.is_orphan() => drop(worker),
                Err(Silence::Unanswered(error)) => {
                    return Err(worker.fork.post_mortem(&error, task.budget()));
                }
            }
        }
        let mut fork = self.helper.fork()?;
        let mut outcome = fork.ask(task, limits::FORKED, task.budget());
        if let Err(silence) = &outcome
            && (fork.is_orphan() || matches!(silence, Silence::Unheard(_)))
        {
            // The helper has ended or is stopped: another one is started.
            fork.post_mortem(silence.error(), task.budget());
            fork = self.helper.fork()?;
            outcome = fork.ask(task, limits::FORKED, task.budget());
        }
        match outcome {
            Ok(done) => self.keep(Worker { fork, done: 0 }, done),
            Err(silence) => Err(fork.post_mortem(silence.error(), task.budget())),
        }
    }

    fn idle(&self) -> Option<Worker> {
        self.workers().pop()
    }

    fn keep(&self, mut worker: Worker, done: Done) -> Result<Done, Error> {
        worker.done += 1;
        let mut workers = self.workers();
        if workers.len() < IDLE && worker.done < TASKS {
            workers.push(worker);
        }
        match done {
            Done::Refused(refused) => Err(Error::Model(refused.into())),
            done => Ok(done),
        }
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of idle workers that are kept.
const IDLE: usize = 2;
/// The number of tasks after which a worker is replaced. This bounds the caches of the libraries in it.
const TASKS: usize = 200;

/// A fork that does one task after the other.
#[derive(Debug)]
struct Worker {
    fork: Fork,
    done: usize,
}

/// A helper that is started again when it has ended. Its first frame is kept in an unnamed file, not in memory.
#[derive(Debug)]
pub(crate) struct Helper {
    sandbox: Sandbox,
    opening: File,
    bytes: usize,
    budget: Budget,
    keeps: bool,
    parent: Mutex<Option<Arc<Parent>>>,
}

impl Helper {
    pub fn new(sandbox: &Sandbox, opening: &Opening) -> Result<Self, Error> {
        let spool = || -> io::Result<(File, usize)> {
            let frame = postcard::to_stdvec(opening).map_err(io::Error::other)?;
            let mut file = tempfile::tempfile()?;
            file.write_all(&(frame.len() as u32).to_le_bytes())?;
            file.write_all(&frame)?;
            Ok((file, frame.len()))
        };
        let (opening, bytes) = spool().map_err(|error| Error::Unavailable(error.to_string()))?;
        let (sandbox, parent) = (sandbox.clone(), Mutex::new(None));
        Ok(Self { sandbox, opening, bytes, budget: limits::VOCABULARY, keeps: false, parent })
    }

    /// Starts the helper, and returns its answer to the first frame.
    pub fn start(&self) -> Result<Opened, Error> {
        self.start_in(&mut self.parent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn start_in(&self, place: &mut Option<Arc<Parent>>) -> Result<Opened, Error> {
        let parent = Parent::start(&self.sandbox).map_err(|error| Error::Unavailable(error.to_string()))?;
        let opened = parent.with_control(|control| {
            control.set_read_timeout(Some(limits::OPENING))?;
            self.send_opening(control)?;
            let opened = wire::receive(control)?;
            control.set_read_timeout(Some(limits::CONTROL))?;
            Ok(opened)
        });
        match opened {
            Ok(Opened::Refused(refused)) => Err(Error::Model(refused.into())),
            Ok(opened) => {
                if self.keeps {
                    keep(&parent)?;
                }
                *place = Some(Arc::new(parent));
                Ok(opened)
            }
            Err(error) => Err(end(&parent, &error, self.budget)),
        }
    }

    fn send_opening(&self, mut control: &UnixStream) -> io::Result<()> {
        let (mut buffer, mut at) = (vec![0; 1 << 16], 0);
        loop {
            match self.opening.read_at(&mut buffer, at)? {
                0 => return Ok(()),
                read => control.write_all(&buffer[..read])?,
            }
            at += buffer.len() as u64;
        }
    }

    /// Has this helper and each later one compile the template once, so that forks inherit it.
    ///
    /// # Errors
    /// [`Error::TooMuch`] if that exceeds a budget; then no helper compiles it. [`Error::Unavailable`] if the sandbox
    /// fails.
    fn keep_from_now_on(&mut self) -> Result<(), Error> {
        let place = self.parent.get_mut().unwrap_or_else(PoisonError::into_inner);
        let kept = place.as_ref().map_or(Ok(()), |parent| keep(parent));
        match kept {
            Ok(()) => self.keeps = true,
            Err(_) => *place = None,
        }
        kept
    }

    /// Returns how many forks are killed and have not ended yet.
    pub fn ending(&self) -> usize {
        let place = self.parent.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a helper there are none: they end with it.
        place.as_ref().and_then(|parent| parent.ending().ok()).unwrap_or(0)
    }

    /// Returns a fork of the helper. A helper that has ended is started again first.
    pub fn fork(&self) -> Result<Fork, Error> {
        let mut place = self.parent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parent) = place.as_ref() {
            match parent.fork() {
                Ok(fork) => return Ok(fork),
                Err(error) => {
                    tracing::warn!("a sandbox is gone and is started again: {error}");
                    // Its forks end too, so callers that wait for one get an error.
                    parent.kill();
                }
            }
        }
        *place = None;
        self.start_in(&mut place)?;
        let parent = place.as_ref().ok_or_else(|| Error::Unavailable("it did not start".to_owned()))?;
        parent.fork().map_err(|error| Error::Unavailable(error.to_string()))
    }
}

fn keep(parent: &Parent) -> Result<(), Error> {
    parent.keep(limits::TEMPLATE).map_err(|error| end(parent, &error, limits::TEMPLATE))
}

/// Ends a helper that did not answer, and returns the reason.
fn end(parent: &Parent, error: &io::Error, budget: Budget) -> Error {
    match parent.kill() {
        Some(_) if is_timeout(error) => Error::Unavailable("it is stopped".to_owned()),
        Some(status) => why(status, budget),
        None => Error::Unavailable(error.to_string()),
    }
}
