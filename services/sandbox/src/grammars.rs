//! The server's end of a model's grammars: a helper that has the model's tokens, forked for each grammar, which is forked
//! for each answer. Compiled grammars are kept for the next request, and so is what was refused.

use std::collections::VecDeque;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::constraint::Constraint;
use crate::fork::Parent;
use crate::grammar::Grammar;
use crate::language::Helper;
use crate::limits;
use crate::wire::{self, Compiled, Opening};
use crate::{Error, Sandbox, TooMuch};

/// Compiled grammars that are kept, whether in use or not, and their memory together.
const KEPT: usize = 32;
const KEPT_BYTES: usize = 64 << 20;
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
    known: Mutex<Known>,
}

/// Both with the newest last.
#[derive(Default)]
struct Known {
    compiled: VecDeque<(Key, Arc<Parent>, usize)>,
    refused: VecDeque<(Key, Refusal)>,
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
        Self { sandbox, tokens: Box::new(tokens), helper: OnceLock::new(), known: Mutex::default() }
    }

    /// One answer's way through a grammar. Blocks: milliseconds for a usual grammar, at most seconds.
    ///
    /// Errors: `Refused` where it cannot be read, nothing satisfies it or a stated limit is passed; `TooMuch`;
    /// `Unavailable`.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint, Error> {
        grammar.check().map_err(|error| Error::Refused(error.0))?;
        let key = key(grammar);
        if let Some(parent) = self.known(&key)? {
            match Constraint::begin(&parent) {
                Ok(constraint) => return Ok(constraint),
                // It was killed: it is compiled again.
                Err(error) => tracing::warn!("a compiled grammar is gone: {error}"),
            }
            self.lock().compiled.retain(|(known, ..)| *known != key);
        }
        let parent = self.compile(key, grammar)?;
        Constraint::begin(&parent)
    }

    /// Whether this one needs no compiling: it is compiled, or known to be refused.
    pub fn knows(&self, grammar: &Grammar) -> bool {
        grammar.check().is_err() || !matches!(self.known(&key(grammar)), Ok(None))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, key: &Key) -> Result<Option<Arc<Parent>>, Error> {
        let mut known = self.lock();
        if let Some((_, refusal)) = known.refused.iter().find(|(known, _)| known == key) {
            return Err(refusal.clone().into());
        }
        let Some(at) = known.compiled.iter().position(|(known, ..)| known == key) else { return Ok(None) };
        let Some(found) = known.compiled.remove(at) else { return Ok(None) };
        let parent = Arc::clone(&found.1);
        known.compiled.push_back(found);
        Ok(Some(parent))
    }

    fn compile(&self, key: Key, grammar: &Grammar) -> Result<Arc<Parent>, Error> {
        let fork = self.helper()?.fork()?;
        let talk = wire::send(&fork.socket, grammar).and_then(|()| wire::receive::<Compiled>(&fork.socket));
        let refusal = match talk {
            Ok(Compiled::Ready { bytes }) => {
                let parent = Parent::of(fork).map_err(|error| Error::Unavailable(error.to_string()))?;
                let parent = Arc::new(parent);
                self.keep(key, &parent, bytes);
                return Ok(parent);
            }
            Ok(Compiled::Refused(why)) => Refusal::Wrong(why),
            Err(error) => match fork.post_mortem(&error, limits::GRAMMAR) {
                // Another time it may be done.
                error @ Error::TooMuch(TooMuch::Clock(_)) => return Err(error),
                Error::TooMuch(limit) => Refusal::TooMuch(limit),
                other => return Err(other),
            },
        };
        let mut known = self.lock();
        known.refused.push_back((key, refusal.clone()));
        if known.refused.len() > REMEMBERED {
            known.refused.pop_front();
        }
        Err(refusal.into())
    }

    fn keep(&self, key: Key, parent: &Arc<Parent>, bytes: usize) {
        let mut known = self.lock();
        if bytes > KEPT_BYTES / 2 {
            return;
        }
        // Two requests may have compiled it at once.
        known.compiled.retain(|(known, ..)| *known != key);
        known.compiled.push_back((key, Arc::clone(parent), bytes));
        let total = |known: &Known| known.compiled.iter().map(|(.., bytes)| bytes).sum::<usize>();
        while known.compiled.len() > KEPT || total(&known) > KEPT_BYTES {
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
