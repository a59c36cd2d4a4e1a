//! The server's end of a model's grammars: a helper that has the model's tokens, forked for each grammar, which is forked
//! for each answer. Compiled grammars are kept for the next request, and so is what was refused.

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

/// Memory of the compiled grammars that are kept for the next request.
const KEPT_BYTES: usize = 32 << 20;
/// What a process takes beside what its grammar does: tables of pages, and pages that it shared before it wrote to them.
const PROCESS_BYTES: usize = 2 << 20;
/// Refusals that are remembered.
const REMEMBERED: usize = 1024;

type Key = [u8; 32];
type Tokens = dyn Fn() -> TokenTable + Send + Sync;

/// A model's tokens as grammars need them.
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

/// Both with the newest last.
#[derive(Default)]
struct Known {
    compiled: VecDeque<(Key, Arc<Ready>)>,
    refused: VecDeque<(Key, Refusal)>,
}

/// A compiled grammar.
#[derive(Debug)]
struct Ready {
    parent: Arc<Parent>,
    /// Memory that it holds.
    bytes: usize,
    /// Which tokens an answer may begin with.
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
    /// `tokens` is asked when the first grammar comes, and a helper is started then.
    pub fn new(sandbox: Sandbox, tokens: impl Fn() -> TokenTable + Send + Sync + 'static) -> Self {
        Self {
            sandbox,
            tokens: Box::new(tokens),
            helper: OnceLock::new(),
            spare: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// One answer's way through a grammar. Blocks: milliseconds for a usual grammar, at most seconds.
    ///
    /// Errors: `Refused` where it cannot be read, nothing satisfies it or a stated limit is passed; `TooMuch`;
    /// `Unavailable`.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint, Error> {
        grammar.check().map_err(|error| Error::Refused(error.0))?;
        let key = key(grammar);
        let ready = match self.known(&key)? {
            Some(ready) => ready,
            None => self.compile(key, grammar)?,
        };
        ready.begin().or_else(|error| {
            // It was killed: it is compiled again.
            tracing::warn!("a compiled grammar is gone: {error}");
            self.lock().compiled.retain(|(known, _)| *known != key);
            self.compile(key, grammar)?.begin()
        })
    }

    /// Whether this one needs no compiling: it is compiled, or known to be refused.
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
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let compiled = match spare.map(|spare| compile(spare, grammar, limits::HEARD)) {
            Some(Ok(compiled)) => compiled,
            // There is none, or it is gone or stopped.
            Some(Err(_)) | None => match compile(helper.fork()?, grammar, limits::FORKED) {
                Ok(compiled) => compiled,
                // The helper is gone or stopped: another is started.
                Err((fork, error)) => {
                    fork.post_mortem(&error, limits::GRAMMAR);
                    match compile(helper.fork()?, grammar, limits::FORKED) {
                        Ok(compiled) => compiled,
                        Err((fork, error)) => Err(fork.post_mortem(&error, limits::GRAMMAR)),
                    }
                }
            },
        };
        // The next grammar need not wait for a fork.
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
            // Another time it may be done.
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
        // Two requests may have compiled it at once.
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

/// Has a fork of the helper compile a grammar; it comes back when it has not heard.
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
