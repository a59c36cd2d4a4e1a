//! Runs strangers' programs in processes that may die.
//!
//! Tokenizers and chat templates come with models, schemas, regular expressions and grammars with requests. The libraries
//! that compile and run them recurse and allocate as the input says: a stack that overflows and an allocation that fails
//! end a process, and a loop without end cannot be taken off a thread. So the server runs none of it. It starts itself
//! again as a helper ([`helper`], `millm sandbox`), one for a model's language and one for its grammars, and has each
//! input worked on by a fork of that helper, within a budget of memory, computing time and stack ([`limits`]).
//!
//! [`Language`] and [`Grammars`] are the server's ends; both block and belong on blocking threads. A [`Constraint`] is an
//! answer's end of its grammar; it does not block, and an engine's thread may hold it. [`Detokenizer`] is plain data.
//!
//! The programs themselves are public for tests and tools: [`Tokenizer`], [`ChatTemplate`], [`grammar`].

mod allocator;
mod constraint;
mod fork;
pub mod grammar;
mod grammars;
pub mod helper;
mod language;
mod limits;
mod priority;
pub mod template;
pub mod tokenizer;
mod wire;

use std::path::{Path, PathBuf};

pub use allocator::Capped;
pub use constraint::{Constraint, Next};
pub use grammar::{Grammar, GrammarError};
pub use grammars::{Grammars, TokenTable};
pub use language::Language;
pub use template::ChatTemplate;
pub use tokenizer::{Detokenizer, TextDecoder, Tokenizer};
pub use wire::Chat;

/// Where helpers come from: a program that runs [`helper::main`] when its first argument is [`helper::ARGUMENT`].
#[derive(Debug, Clone)]
pub struct Sandbox {
    program: PathBuf,
}

impl Sandbox {
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// This very program, even when its file has been replaced meanwhile.
    ///
    /// Errors: where the system cannot say which that is.
    pub fn of_this_program() -> std::io::Result<Self> {
        let running = Path::new("/proc/self/exe");
        if running.exists() {
            return Ok(Self::new(running.to_owned()));
        }
        std::env::current_exe().map(Self::new)
    }

    /// `millm` where cargo puts it beside the tests of this workspace.
    ///
    /// # Panics
    /// Where it has not been built.
    pub fn beside_tests() -> Self {
        let test = std::env::current_exe().expect("a test knows its program");
        let folders = test.ancestors().skip(1).take(3);
        let program = folders.map(|folder| folder.join("millm")).find(|program| program.is_file());
        Self::new(program.expect("build the program first: cargo build --workspace"))
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }
}

/// Why there is no answer from a sandboxed process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input is wrong: the program says why.
    #[error("{0}")]
    Refused(String),
    /// A model's file is wrong, or its program said no.
    #[error(transparent)]
    Model(#[from] millm_model::Error),
    /// A prompt of so many bytes is longer than it may be.
    #[error("{0} bytes are longer than a prompt may be")]
    TooLong(usize),
    /// The input took more than it may.
    #[error("{0}")]
    TooMuch(TooMuch),
    /// The process is gone or does not answer, and the input is not known to be the reason.
    #[error("the sandbox does not answer: {0}")]
    Unavailable(String),
}

/// Which budget was not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    #[error("it needs more than {} MiB of memory", .0 >> 20)]
    Memory(usize),
    #[error("it takes more than {} s of computing", .0.as_secs())]
    Time(std::time::Duration),
    /// On the clock: others were computing too.
    #[error("it is not done within {} s, as busy as this machine is", .0.as_secs())]
    Clock(std::time::Duration),
    #[error("it nests or refers to itself too deeply: it needs more than {} MiB of stack", limits::STACK >> 20)]
    Stack,
}
