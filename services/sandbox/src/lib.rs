//! Runs tokenizers, chat templates and grammars, which are programs by strangers, in processes that may die.
//!
//! Tokenizers and chat templates come with models; schemas, regular expressions and grammars come with requests. The
//! libraries that compile and run them recurse and allocate as the input says. A stack overflow or a failed
//! allocation ends a process, and an endless loop cannot be taken off a thread. The server's own process therefore
//! runs none of them. It starts itself again as a helper ([`helper`], `millm sandbox`): one for a model's tokenizer
//! and chat template, and one for its grammars. A fork of the helper works on each input, within a budget of memory,
//! CPU time and stack ([`limits`]).
//!
//! [`Language`] and [`Grammars`] are the server's ends. Both block and belong on blocking threads. A [`Constraint`] is
//! the server's end of one answer's grammar. It does not block, and an engine's thread may hold it. [`Detokenizer`] is
//! plain data.
//!
//! The programs that run in the sandbox are public for tests and tools: [`Tokenizer`], [`ChatTemplate`], [`grammar`].

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

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

/// The program that helpers are started from. It runs [`helper::main`] when its first argument is
/// [`helper::ARGUMENT`].
#[derive(Debug, Clone)]
pub struct Sandbox {
    program: PathBuf,
}

impl Sandbox {
    /// Uses the program at this path.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Uses the running program, even if its file has been replaced since it was started.
    ///
    /// # Errors
    /// Returns an error if the system does not tell the running program's path.
    pub fn of_this_program() -> std::io::Result<Self> {
        let running = Path::new("/proc/self/exe");
        if running.exists() {
            return Ok(Self::new(running.to_owned()));
        }
        std::env::current_exe().map(Self::new)
    }

    /// Uses `millm` from the folder in which cargo builds this workspace's tests.
    ///
    /// # Panics
    /// Panics if `millm` has not been built.
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

/// The reason why a sandboxed process gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input is wrong, for this reason.
    #[error("{0}")]
    Refused(String),
    /// A model's file is wrong, or its tokenizer or template failed.
    #[error(transparent)]
    Model(#[from] millm_model::Error),
    /// The rendered prompt is longer than allowed: it has this many bytes.
    #[error("{0} bytes are longer than a prompt may be")]
    TooLong(usize),
    /// The input exceeded a budget.
    #[error("{0}")]
    TooMuch(TooMuch),
    /// The process has ended or does not answer, and the input is not known to be the reason.
    #[error("the sandbox does not answer: {0}")]
    Unavailable(String),
}

/// The budget that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Memory, of this many bytes.
    #[error("it needs more than {} MiB of memory", .0 >> 20)]
    Memory(usize),
    /// CPU time.
    #[error("it takes more than {} s of computing", .0.as_secs())]
    Time(std::time::Duration),
    /// Wall-clock time: other programs may have used the cores.
    #[error("it is not done within {} s, as busy as this machine is", .0.as_secs())]
    Clock(std::time::Duration),
    /// The stack.
    #[error("it nests or refers to itself too deeply: it needs more than {} MiB of stack", limits::STACK >> 20)]
    Stack,
}
