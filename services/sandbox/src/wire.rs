//! The protocol between the server and its sandboxed processes: frames (a length, then postcard) over Unix sockets, and
//! sockets for forks. Both ends are miLLM, but a process may be compromised, so the server bounds every length.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use millm_model::TokenizerFiles;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits::{self, Budget};
use crate::tokenizer::Detokenizer;

/// The most bytes of a frame: a tokenizer's files, or a prompt with its token ids.
pub(crate) const MAX_FRAME: usize = 1 << 30;

/// The first frame that a helper gets: the data that its forks work with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Opening {
    Language(Box<TokenizerFiles>),
    Grammars {
        /// The bytes of each token, by id.
        tokens: Vec<Vec<u8>>,
        special: Vec<u32>,
        eos: Vec<u32>,
    },
}

/// The answer to [`Opening`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Opened {
    Language(Detokenizer),
    Grammars,
    Refused(Refused),
}

/// A task of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Compiles the chat template, to find out whether that succeeds.
    TryTemplate,
    Encode {
        text: String,
        add_special: bool,
    },
    Chat(Chat),
}

/// A conversation to render and tokenize.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Chat {
    /// The messages in the form that templates expect: a JSON list.
    pub messages: String,
    /// The tools: a JSON list.
    pub tools: Option<String>,
    /// Further variables of the template: a JSON object.
    pub variables: Option<String>,
    /// True if the prompt ends where the assistant's next message begins.
    pub add_generation_prompt: bool,
    /// The most bytes of the rendered text. A longer text is refused before it is tokenized.
    pub most_bytes: usize,
}

impl Task {
    pub fn budget(&self) -> Budget {
        match self {
            Self::TryTemplate => limits::TEMPLATE,
            Self::Encode { text, .. } => limits::prompt(text.len()),
            Self::Chat(chat) => limits::prompt(chat.bytes()),
        }
    }
}

impl Chat {
    /// Returns the size of the conversation in bytes.
    pub fn bytes(&self) -> usize {
        let options = [&self.tools, &self.variables];
        self.messages.len() + options.into_iter().flatten().map(String::len).sum::<usize>()
    }

    /// Returns the most memory, in bytes, that rendering and tokenizing a prompt of this size may take.
    pub fn memory(bytes: usize) -> usize {
        limits::prompt(bytes).memory
    }
}

/// The answer to a [`Task`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Done {
    /// True if there is a template.
    Template(bool),
    Tokens(Vec<u32>),
    /// The rendered text is too long: it has this many bytes.
    TooLong(usize),
    Refused(Refused),
}

/// The answer to a [`crate::Grammar`]; after [`Compiled::Ready`] the process is forked for each answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Compiled {
    Ready {
        /// The memory that the compiled grammar takes.
        bytes: usize,
        /// The tokens that an answer may begin with.
        mask: Vec<u32>,
    },
    Refused(String),
}

/// Those errors of `millm_model` that tokenizers and templates have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refused {
    File { file: String, why: String },
    Tokenizer(String),
    Template(String),
}

impl From<millm_model::Error> for Refused {
    fn from(error: millm_model::Error) -> Self {
        match error {
            millm_model::Error::InvalidFile { file, why } => Self::File { file, why },
            millm_model::Error::Template(why) => Self::Template(why),
            millm_model::Error::Tokenizer(why) => Self::Tokenizer(why),
            other => Self::Tokenizer(other.to_string()),
        }
    }
}

impl From<Refused> for millm_model::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::File { file, why } => Self::InvalidFile { file, why },
            Refused::Template(why) => Self::Template(why),
            Refused::Tokenizer(why) => Self::Tokenizer(why),
        }
    }
}

pub(crate) fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut frame = vec![0; 4];
    frame = postcard::to_extend(message, frame).map_err(io::Error::other)?;
    let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&frame)
}

/// Receives a frame. The error is `UnexpectedEof` if the other end has closed the socket.
pub(crate) fn receive<T: DeserializeOwned>(mut stream: &UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::other("a frame of the sandbox is too long"));
    }
    // The buffer grows with the data received, not by the length announced.
    let mut frame = Vec::new();
    stream.take(length as u64).read_to_end(&mut frame)?;
    if frame.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(&frame).map_err(io::Error::other)
}

/// An order to a process that can be forked.
#[derive(Debug)]
pub(crate) enum Order {
    /// Fork. The fork has this number and talks over this socket, which is closed if forking fails. Not answered.
    Fork(i32, OwnedFd),
    /// Kill a fork, and answer with its exit status or that it has not ended yet.
    End(i32),
    /// Kill a fork whose exit status is not needed. Not answered.
    Forget(i32),
    /// Compile what a fork has compiled successfully, so that later forks inherit it. Answered with 0.
    Keep,
}

const FORK: u8 = b'F';
const END: u8 = b'E';
const FORGET: u8 = b'G';
const KEEP: u8 = b'K';

pub(crate) fn order_fork(mut control: &UnixStream, number: i32, socket: impl AsFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    with.push(SendAncillaryMessage::ScmRights(&sockets));
    sendmsg(control, &[IoSlice::new(&[FORK])], &mut with, SendFlags::empty())?;
    control.write_all(&number.to_le_bytes())
}

pub(crate) fn order_end(control: &UnixStream, fork: i32) -> io::Result<()> {
    order(control, END, fork)
}

pub(crate) fn order_forget(control: &UnixStream, fork: i32) -> io::Result<()> {
    order(control, FORGET, fork)
}

fn order(mut control: &UnixStream, kind: u8, fork: i32) -> io::Result<()> {
    let mut order = [kind, 0, 0, 0, 0];
    order[1..].copy_from_slice(&fork.to_le_bytes());
    control.write_all(&order)
}

pub(crate) fn order_keep(mut control: &UnixStream) -> io::Result<()> {
    control.write_all(&[KEEP])
}

/// Receives the next order. Returns `None` if the server has closed the socket.
pub(crate) fn next_order(mut control: &UnixStream) -> io::Result<Option<Order>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = RecvAncillaryBuffer::new(&mut space);
    let mut kind = [0];
    let got = loop {
        match recvmsg(control, &mut [IoSliceMut::new(&mut kind)], &mut with, RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            got => break got?,
        }
    };
    if got.bytes == 0 {
        return Ok(None);
    }
    if kind[0] == KEEP {
        return Ok(Some(Order::Keep));
    }
    let mut fork = [0; 4];
    control.read_exact(&mut fork)?;
    let fork = i32::from_le_bytes(fork);
    match kind[0] {
        FORK => {
            let socket = with.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
                _ => None,
            });
            let socket = socket.ok_or_else(|| io::Error::other("no socket came"))?;
            Ok(Some(Order::Fork(fork, socket)))
        }
        END => Ok(Some(Order::End(fork))),
        FORGET => Ok(Some(Order::Forget(fork))),
        _ => Err(io::Error::other("an unknown order")),
    }
}

/// A message from the process that follows an answer. The server sends token ids, four bytes each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The token is accepted.
    Accepted {
        /// True if the answer is complete with this token.
        complete: bool,
    },
    /// The tokens that may come next, 32 in a word.
    Mask(Vec<u32>),
    Failed(String),
}

impl Step {
    const ACCEPTED: u8 = 0;
    const MASK: u8 = 1;
    const FAILED: u8 = 2;

    pub fn accepted(complete: bool) -> Vec<u8> {
        frame(Self::ACCEPTED, &[u8::from(complete)])
    }

    pub fn mask(words: &[u32]) -> Vec<u8> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        frame(Self::MASK, &bytes)
    }

    pub fn failed(why: &str) -> Vec<u8> {
        frame(Self::FAILED, why.as_bytes())
    }

    /// Takes the first complete step off `buffer`.
    pub fn take(buffer: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let Some((length, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > MAX_FRAME {
            return Err(io::Error::other("a step of the sandbox has no length"));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let step = match frame[0] {
            Self::ACCEPTED => Self::Accepted { complete: frame.get(1) == Some(&1) },
            Self::MASK => {
                Self::Mask(frame[1..].as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
            }
            _ => Self::Failed(String::from_utf8_lossy(&frame[1..]).into_owned()),
        };
        buffer.drain(..4 + length);
        Ok(Some(step))
    }
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(5 + body.len());
    frame.extend((1 + body.len() as u32).to_le_bytes());
    frame.push(kind);
    frame.extend(body);
    frame
}
