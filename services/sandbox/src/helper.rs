//! The helper's program: `millm sandbox`, started by the server with a socket as its standard input.
//!
//! It gets a model's tokenizer files or its tokens, builds the tokenizer or the trie, and from then on only forks. A
//! fork works on one prompt after the other, or compiles one grammar, each within a budget. The fork that compiled a
//! grammar is forked again, once for each answer. So an input can end one fork only, and building happens once.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use millm_model::gguf::Metadata;
use millm_model::{Error, TokenizerFiles};

use crate::allocator;
use crate::grammar::{Grammar, Matcher, Vocabulary};
use crate::limits::{self, Budget};
use crate::priority;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::wire::{self, Chat, Compiled, Done, Opened, Opening, Order, Refused, Step, Task};

/// The argument that makes `millm` a helper.
pub const ARGUMENT: &str = "sandbox";

/// A typical schema.
const WARMING: &str = r#"{"type": "object", "properties": {
    "text": {"type": "string", "maxLength": 9}, "whole": {"type": "integer", "minimum": 0, "maximum": 99},
    "number": {"type": "number"}, "flag": {"type": "boolean"}, "choice": {"enum": ["a", "b"]},
    "list": {"type": "array", "items": {"type": "string"}, "maxItems": 3}
}, "required": ["text", "whole"], "additionalProperties": false}"#;

/// The memory that a worker may take beyond what it began with; then another fork replaces it.
const WORKER_MEMORY: usize = 32 << 20;
/// A prompt that takes more memory than this is followed by a call of [`GIVE_BACK`].
const GIVEN_BACK: usize = 4 << 20;

/// Has the allocator return freed memory to the system.
static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

fn give_back() {
    if let Some(give_back) = GIVE_BACK.get() {
        give_back();
    }
}

/// Runs until the server closes the socket. `give_back` has the allocator return freed memory to the system.
pub fn main(give_back: fn()) -> ExitCode {
    let _ = GIVE_BACK.set(give_back);
    limits::lock_down();
    // SAFETY: the server gave this process a socket as descriptor 0, which nobody else here owns.
    let control = UnixStream::from(unsafe { OwnedFd::from_raw_fd(0) });
    match run(&control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(control: &UnixStream) -> io::Result<()> {
    match wire::receive(control)? {
        Opening::Language(files) => {
            limits::begin(limits::tokenizer(size(&files)));
            let opened = Tokenizer::of(&files);
            limits::time(Duration::ZERO);
            match opened {
                Ok(tokenizer) => {
                    wire::send(control, &Opened::Language(tokenizer.detokenizer().clone()))?;
                    serve(control, Language { tokenizer, template: None, files })
                }
                Err(error) => wire::send(control, &Opened::Refused(error.into())),
            }
        }
        Opening::Grammars { tokens, special, eos } => {
            limits::begin(limits::VOCABULARY);
            let vocabulary = Vocabulary::new(tokens, &special, &eos);
            limits::time(Duration::ZERO);
            match vocabulary {
                Ok(vocabulary) => {
                    wire::send(control, &Opened::Grammars)?;
                    serve(control, vocabulary)
                }
                Err(error) => wire::send(control, &Opened::Refused(Refused::Tokenizer(error.to_string()))),
            }
        }
    }
}

fn size(files: &TokenizerFiles) -> usize {
    let texts = [&files.tokenizer, &files.tokenizer_config, &files.chat_template];
    let texts: usize = texts.into_iter().flatten().map(String::len).sum();
    let pairs = files.metadata.iter().flat_map(Metadata::iter);
    texts + pairs.map(|(key, value)| key.len() + value.size()).sum::<usize>()
}

/// The data that a process has built for its forks, and the work of a fork.
trait Program {
    /// Runs in a fork, with the fork's socket.
    fn work(self, socket: &UnixStream) -> io::Result<()>;

    /// Compiles, once, what otherwise each fork would compile.
    fn keep(&mut self) {}
}

/// Follows orders until the server closes the socket.
fn serve(control: &UnixStream, mut program: impl Program) -> io::Result<()> {
    // Process ids, by the numbers that the server gives to forks.
    let mut forks: BTreeMap<i32, libc::pid_t> = BTreeMap::new();
    let mut forgotten = Vec::new();
    while let Some(order) = wire::next_order(control)? {
        match order {
            Order::Fork(number, socket) => {
                // SAFETY: this process has one thread, so its child has all there is of it.
                match unsafe { libc::fork() } {
                    0 => {
                        // Otherwise the parent's socket would stay open in its forks after the parent has ended.
                        close(control);
                        let ended = program.work(&UnixStream::from(socket));
                        // SAFETY: ends the process without running what the parent has registered for its own end.
                        unsafe { libc::_exit(i32::from(ended.is_err())) }
                    }
                    process if process > 0 => drop(forks.insert(number, process)),
                    // Closing the socket tells the server that the fork failed.
                    _ => {}
                }
            }
            Order::Keep => {
                program.keep();
                answer(control, 0)?;
            }
            Order::End(number) => {
                let stopped = forks.get(&number).is_some_and(|process| is_stopped(*process));
                let ended = forks.get(&number).map_or(Some(0), |process| end(*process));
                if ended.is_some() {
                    forks.remove(&number);
                }
                forgotten.retain(|process| end(*process).is_none());
                let ending = forgotten.len() as i32;
                for number in [i32::from(ended.is_some()), ended.unwrap_or(0), i32::from(stopped), ending] {
                    answer(control, number)?;
                }
            }
            Order::Forget(number) => {
                forgotten.extend(forks.remove(&number));
                forgotten.retain(|process| end(*process).is_none());
            }
        }
    }
    Ok(())
}

fn close(socket: &UnixStream) {
    use std::os::fd::AsRawFd;
    // SAFETY: this fork never uses the descriptor again and ends without dropping its owner.
    unsafe { libc::close(socket.as_raw_fd()) };
}

fn answer(mut control: &UnixStream, number: i32) -> io::Result<()> {
    control.write_all(&number.to_le_bytes())
}

/// Returns whether a fork has been stopped by a signal.
fn is_stopped(process: i32) -> bool {
    // SAFETY: all of it is plain numbers, and valid for the call.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT;
        libc::waitid(libc::P_PID, process as libc::id_t, &raw mut info, flags) == 0
            && info.si_pid() == process
    }
}

/// Kills a fork, unless it has ended. Returns its wait status, or `None` while it is still ending: this does not wait
/// for the end.
fn end(process: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: the process is a child that has not been waited for, so its number is still its own.
    let ended = unsafe {
        libc::kill(process, libc::SIGKILL);
        libc::waitpid(process, &raw mut status, libc::WNOHANG)
    };
    (ended != 0).then_some(status)
}

/// The tokenizer and the template that forks inherit.
struct Language {
    tokenizer: Tokenizer,
    /// Compiled here only after a fork has compiled it without dying.
    template: Option<ChatTemplate>,
    files: Box<TokenizerFiles>,
}

impl Program for Language {
    /// Does one task after the other, each within its budget.
    fn work(self, socket: &UnixStream) -> io::Result<()> {
        priority::yield_to_others(priority::USUAL);
        let mut peak = limits::peak_memory();
        let most = peak + WORKER_MEMORY;
        // A worker that took much memory keeps some of it, and one that yielded cannot take that back. Both end here,
        // and the server replaces them.
        while limits::peak_memory() < most && !priority::has_yielded() {
            let task: Task = wire::receive(socket)?;
            wire::send(socket, &true)?;
            limits::begin(task.budget());
            priority::yield_later((priority::PROMPT_IS_SHORT, priority::LONG_PROMPT), None);
            let done = match task {
                Task::TryTemplate => {
                    ChatTemplate::of(&self.files).map(|found| Done::Template(found.is_some()))
                }
                Task::Encode { text, add_special } => {
                    self.tokenizer.encode(&text, add_special).map(Done::Tokens)
                }
                Task::Chat(chat) => self.chat(&chat),
            };
            limits::time(Duration::ZERO);
            priority::yield_no_more();
            wire::send(socket, &done.unwrap_or_else(|error| Done::Refused(error.into())))?;
            if limits::peak_memory() > peak + GIVEN_BACK {
                peak = limits::peak_memory();
                give_back();
            }
        }
        Ok(())
    }

    fn keep(&mut self) {
        limits::begin(limits::TEMPLATE);
        self.template = ChatTemplate::of(&self.files).ok().flatten();
        limits::time(Duration::ZERO);
    }
}

impl Language {
    fn chat(&self, chat: &Chat) -> Result<Done, Error> {
        let json = |text: &str| {
            serde_json::from_str(text).map_err(|error| Error::Template(format!("messages: {error}")))
        };
        let template =
            self.template.as_ref().ok_or_else(|| Error::Template("this model has none".to_owned()))?;
        let tools = chat.tools.as_deref().map(json).transpose()?;
        let variables = match chat.variables.as_deref().map(json).transpose()? {
            Some(serde_json::Value::Object(variables)) => variables,
            _ => serde_json::Map::new(),
        };
        let messages = json(&chat.messages)?;
        let text = template.render(&messages, tools.as_ref(), chat.add_generation_prompt, &variables)?;
        if text.len() > chat.most_bytes {
            return Ok(Done::TooLong(text.len()));
        }
        // The template writes the special tokens itself.
        self.tokenizer.encode(&text, false).map(Done::Tokens)
    }
}

impl Program for Vocabulary {
    fn work(self, socket: &UnixStream) -> io::Result<()> {
        compile(&self, socket)
    }
}

impl Program for Matcher {
    fn work(self, socket: &UnixStream) -> io::Result<()> {
        follow(self, socket)
    }
}

/// Compiles the grammar that arrives on `socket`. After that the socket takes orders, and a fork follows each answer.
fn compile(vocabulary: &Vocabulary, socket: &UnixStream) -> io::Result<()> {
    // A thread's priority cannot be raised again, and answers need the usual one. So compiling has its own thread.
    let (compiled, bytes) = std::thread::scope(|scope| {
        let compiling = || -> io::Result<_> {
            priority::yield_to_others(priority::USUAL);
            // Warm up while nobody waits: a fork's pages are copied when they are first written.
            drop(vocabulary.compile(&Grammar::JsonSchema(WARMING.to_owned())));
            let grammar: Grammar = wire::receive(socket)?;
            wire::send(socket, &true)?;
            limits::begin(limits::GRAMMAR);
            priority::yield_later(
                (priority::GRAMMAR_IS_SHORT, priority::LONG_GRAMMAR),
                Some((priority::GRAMMAR_IS_USUAL, priority::UNUSUAL_GRAMMAR)),
            );
            let before = allocator::left();
            let compiled = vocabulary.compile(&grammar);
            Ok((compiled, before.saturating_sub(allocator::left())))
        };
        let thread = std::thread::Builder::new().stack_size(limits::STACK).spawn_scoped(scope, compiling)?;
        thread.join().map_err(|_| io::Error::other("compiling panicked"))?
    })?;
    limits::time(Duration::ZERO);
    priority::yield_no_more();
    match compiled {
        Err(error) => wire::send(socket, &Compiled::Refused(error.to_string())),
        Ok(matcher) => {
            wire::send(socket, &Compiled::Ready { bytes, mask: matcher.mask().to_vec() })?;
            give_back();
            serve(socket, matcher)
        }
    }
}

/// Follows one answer: accepts each token that arrives and sends the next mask.
fn follow(mut matcher: Matcher, mut socket: &UnixStream) -> io::Result<()> {
    wire::send(socket, &true)?;
    limits::begin(Budget { memory: limits::STEPS_MEMORY, cpu: Duration::ZERO });
    let mut token = [0; 4];
    let (mut is_long, mut tokens) = (false, 0);
    while socket.read_exact(&mut token).is_ok() {
        limits::time(limits::STEP);
        match matcher.accept(u32::from_le_bytes(token)) {
            Err(error) => return socket.write_all(&Step::failed(&error.to_string())),
            Ok(complete) => socket.write_all(&Step::accepted(complete))?,
        }
        let step = match matcher.prepare() {
            Ok(()) => Step::mask(matcher.mask()),
            Err(error) => Step::failed(&error.to_string()),
        };
        limits::time(Duration::ZERO);
        socket.write_all(&step)?;
        tokens += 1;
        if !is_long && limits::computed() > priority::STEPS_ARE_SHORT + priority::STEP_IS_SHORT * tokens {
            is_long = true;
            priority::yield_to_others(priority::LONG_STEPS);
        }
    }
    Ok(())
}
