//! The server's end of a model's grammars: a helper that holds the model's tokens. A fork of the helper compiles each
//! grammar, and a fork of that follows each answer. Compiled grammars and refusals are cached for the next request.

use std::collections::VecDeque;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::constraint::Constraint;
use crate::fork::{Fork, Parent, Silence};
use crate::grammar::Grammar;
use crate::language::Helper;
use crate::limits;
use crate::wire::{Compiled, Opening};
use crate::{Error, Sandbox, TooMuch};

/// The most memory that cached grammars take together.
const KEPT_BYTES: usize = 32 << 20;
/// The memory that a process takes beside its grammar: page tables, and shared pages that it copied by writing.
const PROCESS_BYTES: usize = 2 << 20;
/// The number of refusals that are cached.
const REMEMBERED: usize = 1024;

type Key = [u8; 32];
type Tokens = dyn Fn() -> TokenTable + Send + Sync;

/// A model's tokens, as input of [`Grammars`].
#[derive(Debug)]
pub struct TokenTable {
    /// The bytes of each token, by id.
    pub tokens: Vec<Vec<u8>>,
    /// Ids that are no text.
    pub special: Vec<u32>,
    /// Ids that end an answer.
    pub eos: Vec<u32>,
}

/// All grammars of a model. Shared between threads.
pub struct Grammars {
    sandbox: Sandbox,
    tokens: Box<Tokens>,
    helper: OnceLock<Result<Helper, String>>,
    /// A fork that waits for the next grammar.
    spare: Mutex<Option<Fork>>,
    known: Mutex<Known>,
}

/// The cached grammars and refusals, each with the most recent last.
#[derive(Default)]
struct Known {
    compiled: VecDeque<(Key, Arc<Ready>)>,
    refused: VecDeque<(Key, Refusal)>,
}

/// A compiled grammar.
#[derive(Debug)]
struct Ready {
    parent: Arc<Parent>,
    /// The memory that it holds.
    bytes: usize,
    /// The tokens that an answer may begin with.
    mask: Vec<u32>,
}

impl Ready {
    fn begin(&self) -> Result<Constraint, Error> {
        Constraint::begin(&self.parent, self.mask.clone())
    }
}

#[derive(Debug, Clone)]
enum Refusal {
    Wrong(String),
    TooMuch(TooMuch),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Wrong(why) => Self::Refused(why),
            Refusal::TooMuch(limit) => Self::TooMuch(limit),
        }
    }
}

impl Grammars {
    /// Returns an empty cache. The first grammar calls `tokens` and starts a helper.
    pub fn new(sandbox: Sandbox, tokens: impl Fn() -> TokenTable + Send + Sync + 'static) -> Self {
        Self {
            sandbox,
            tokens: Box::new(tokens),
            helper: OnceLock::new(),
            spare: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Compiles a grammar, unless it is cached, and begins an answer. Blocks for milliseconds in most cases, and for
    /// seconds at most.
    ///
    /// # Errors
    /// [`Error::Refused`] if the grammar cannot be parsed, allows no answer or exceeds a stated limit,
    /// [`Error::TooMuch`] if compiling exceeds a budget, and [`Error::Unavailable`] if the sandbox fails.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint, Error> {
        grammar.check().map_err(|error| Error::Refused(error.0))?;
        let key = key(grammar);
        let ready = match self.known(&key)? {
            Some(ready) => ready,
            None => self.compile(key, grammar)?,
        };
        ready.begin().or_else(|error| {
            // Its process was killed, so the grammar is compiled again.
            tracing::warn!("a compiled grammar is gone: {error}");
            self.lock().compiled.retain(|(known, _)| *known != key);
            self.compile(key, grammar)?.begin()
        })
    }

    /// Returns whether the grammar needs no compiling: it is cached, or known to be refused.
    pub fn knows(&self, grammar: &Grammar) -> bool {
        grammar.check().is_err() || !matches!(self.known(&key(grammar)), Ok(None))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, key: &Key) -> Result<Option<Arc<Ready>>, Error> {
        let mut known = self.lock();
        if let Some((_, refusal)) = known.refused.iter().find(|(known, _)| known == key) {
            return Err(refusal.clone().into());
        }
        let Some(at) = known.compiled.iter().position(|(known, _)| known == key) else { return Ok(None) };
        let Some(found) = known.compiled.remove(at) else { return Ok(None) };
        let ready = Arc::clone(&found.1);
        known.compiled.push_back(found);
        Ok(Some(ready))
    }

    fn compile(&self, key: Key, grammar: &Grammar) -> Result<Arc<Ready>, Error> {
        let helper = self.helper()?;
        if helper.ending() >= limits::ENDING {
            let why = "grammars that took too long have not ended yet: this machine is too busy";
            return Err(Error::Unavailable(why.to_owned()));
        }
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let compiled = match spare.map(|spare| compile(spare, grammar, limits::HEARD)) {
            Some(Ok(compiled)) => compiled,
            // There is no spare fork, or it has ended or is stopped.
            Some(Err(_)) | None => match compile(helper.fork()?, grammar, limits::FORKED) {
                Ok(compiled) => compiled,
                // The helper has ended or is stopped: another one is started.
                Err((fork, error)) => {
                    fork.post_mortem(&error, limits::GRAMMAR);
                    match compile(helper.fork()?, grammar, limits::FORKED) {
                        Ok(compiled) => compiled,
                        Err((fork, error)) => Err(fork.post_mortem(&error, limits::GRAMMAR)),
                    }
                }
            },
        };
        // The next grammar finds a fork that is ready.
        if let Ok(fork) = helper.fork() {
            *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(fork);
        }
        let refusal = match compiled {
            Ok(ready) => {
                let ready = Arc::new(ready);
                self.keep(key, &ready);
                return Ok(ready);
            }
            Err(Error::Refused(why)) => Refusal::Wrong(why),
            // On a machine that is less busy it may succeed, so this is not cached.
            Err(error @ Error::TooMuch(TooMuch::Clock(_))) => return Err(error),
            Err(Error::TooMuch(limit)) => Refusal::TooMuch(limit),
            Err(other) => return Err(other),
        };
        let mut known = self.lock();
        known.refused.push_back((key, refusal.clone()));
        if known.refused.len() > REMEMBERED {
            known.refused.pop_front();
        }
        Err(refusal.into())
    }

    fn keep(&self, key: Key, ready: &Arc<Ready>) {
        let mut known = self.lock();
        if ready.bytes > KEPT_BYTES / 2 {
            return;
        }
        // Two requests may have compiled it at the same time.
        known.compiled.retain(|(known, _)| *known != key);
        known.compiled.push_back((key, Arc::clone(ready)));
        let total = |known: &Known| known.compiled.iter().map(|(_, ready)| ready.bytes).sum::<usize>();
        while total(&known) > KEPT_BYTES {
            known.compiled.pop_front();
        }
    }

    fn helper(&self) -> Result<&Helper, Error> {
        let helper = self.helper.get_or_init(|| {
            let TokenTable { tokens, special, eos } = (self.tokens)();
            let opening = Opening::Grammars { tokens, special, eos };
            Helper::new(&self.sandbox, &opening).map_err(|error| error.to_string())
        });
        helper.as_ref().map_err(|why| Error::Unavailable(why.clone()))
    }
}

/// Has a fork of the helper compile a grammar. Returns the fork if it did not confirm the question.
fn compile(
    fork: Fork,
    grammar: &Grammar,
    patience: Duration,
) -> Result<Result<Ready, Error>, (Fork, std::io::Error)> {
    match fork.ask(grammar, patience, limits::GRAMMAR) {
        Ok(Compiled::Ready { bytes, mask }) => Ok(match Parent::of(fork) {
            Ok(parent) => Ok(Ready { parent: Arc::new(parent), bytes: bytes + PROCESS_BYTES, mask }),
            Err(error) => Err(Error::Unavailable(error.to_string())),
        }),
        Ok(Compiled::Refused(why)) => Ok(Err(Error::Refused(why))),
        Err(Silence::Unheard(error)) => Err((fork, error)),
        Err(Silence::Unanswered(error)) => Ok(Err(fork.post_mortem(&error, limits::GRAMMAR))),
    }
}

impl Debug for Grammars {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Grammars")
    }
}

fn key(grammar: &Grammar) -> Key {
    let kind = match grammar {
        Grammar::JsonSchema(_) => b"schema",
        Grammar::Regex(_) => b"regexp",
        Grammar::Lark(_) => b"lark  ",
    };
    Sha256::new().chain_update(kind).chain_update(grammar.text()).finalize().into()
}
