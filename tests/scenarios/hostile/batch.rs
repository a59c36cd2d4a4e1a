//! A server and the inputs that it is asked with, one by one.

use std::time::{Duration, Instant};

use millm_kit::Reason;
use millm_proto::runtime::v1::generate_request::Prompt;
use millm_proto::runtime::v1::{Constraint, GenerateRequest, Message, Messages, constraint::Kind};
use serde_json::{Value, json};

use crate::harness::{
    Judged, Layout, Options, ProcessTree, Role, Server, TINY, Verdict, everyday, fixture, greedy, post,
};
use crate::hostile_inputs::requests::CHAT;

/// A typed answer comes within five seconds; what comes no sooner than this does not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a batch may leave behind.
const LEFT_BEHIND: u64 = 64 << 20;

/// Which answers are right.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// Refused, and the field that is too much is named. A part of it (`messages[1].content`) is it too.
    Refused(&'static str),
    /// Taken, or refused with this field.
    TakenOrRefused(&'static str),
    /// A file that is too much.
    BadFile,
    /// Taken, or the file is too much, or one of these fields.
    Typed(&'static [&'static str]),
}

impl Wanted {
    pub fn accepts(&self, verdict: &Verdict) -> bool {
        let refuses = |field: &str| {
            let part = verdict.field.strip_prefix(field);
            let named = part.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
            verdict.reason == Some(Reason::InvalidArgument) && verdict.status == 400 && named
                || verdict.reason == Some(Reason::ContextLengthExceeded)
        };
        let bad_file = verdict.reason == Some(Reason::InvalidModelFile) && verdict.status == 422;
        match self {
            Self::Refused(field) => refuses(field),
            Self::TakenOrRefused(field) => verdict.is_taken() || refuses(field),
            Self::BadFile => bad_file,
            Self::Typed(fields) => {
                verdict.is_taken() || bad_file || fields.iter().any(|field| refuses(field))
            }
        }
    }
}

/// Where the machine has other work, a helper may not get its share of time before it is given up: whether it hangs
/// cannot be told then.
pub fn is_starved(verdict: &Verdict, took: Duration) -> bool {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let is_busy = load > 1.5 * cores as f64;
    verdict.reason == Some(Reason::ServiceUnavailable) && took > Duration::from_secs(3) && is_busy
}

pub struct Batch {
    pub server: Server,
    pub tree: ProcessTree,
    before: u64,
    failures: Vec<String>,
    slowest: (Duration, String),
    asked: usize,
}

impl Batch {
    /// A server with the trained model that has answered all kinds of questions once.
    pub async fn start() -> Self {
        Self::start_in(Layout::OneProcess).await
    }

    pub async fn start_in(layout: Layout) -> Self {
        // A hostile model is loaded beside the one that goes on answering.
        let options = Options::default().set("MILLM_MAX_LOADED_MODELS", "2");
        let server = Server::start(layout, options).await;
        server.add(&fixture("tiny-millm"), TINY).await;
        let tree = server.process_tree(Role::Runtime);
        let mut batch =
            Self { server, tree, before: 0, failures: Vec::new(), slowest: Default::default(), asked: 0 };
        batch.warm_up().await;
        batch
    }

    async fn warm_up(&mut self) {
        self.server.load(TINY).await;
        self.tree = self.server.process_tree(Role::Runtime);
        everyday(&self.server).await.expect("a new server answers");
        let held = post(&self.server, CHAT, &chat("guided_regex", json!("[a-z]{3}"))).await;
        assert!(held.expect("a typed answer").is_taken(), "a new server holds answers");
        self.before = self.tree.resident_bytes();
    }

    /// What has been served so far is everyday work: what it left in memory (the KV cache, compiled grammars) stays.
    pub fn is_warm(&mut self) {
        self.before = self.tree.resident_bytes();
    }

    /// Notes whether what came back is right and the server is what it was.
    pub async fn check(&mut self, name: &str, wanted: &Wanted, ask: impl AsyncFnOnce(&Server) -> Judged) {
        let started = Instant::now();
        let judged = tokio::time::timeout(PATIENCE, ask(&self.server)).await;
        let judged = judged.unwrap_or_else(|_| Err(format!("nothing within {} s", PATIENCE.as_secs())));
        self.judge(name, wanted, &judged, started.elapsed()).await;
    }

    async fn judge(&mut self, name: &str, wanted: &Wanted, judged: &Judged, took: Duration) {
        self.asked += 1;
        println!("{:>7.0} ms  {name}: {}", took.as_secs_f64() * 1e3, shown(judged));
        match judged {
            Ok(verdict) if wanted.accepts(verdict) || is_starved(verdict, took) => {}
            _ => self.failures.push(format!("{name}: {}; wanted {wanted:?}", shown(judged))),
        }
        if took > self.slowest.0 {
            self.slowest = (took, name.to_owned());
        }
        if !self.tree.is_alive() {
            self.failures.push(format!("{name}: ended the server"));
            self.server.restart(Role::Runtime).await;
            self.warm_up().await;
        } else if let Err(why) = everyday(&self.server).await {
            self.failures.push(format!("{name}: afterwards {why}"));
        }
    }

    /// The server is what it was, though nothing was asked by [`Batch::check`].
    pub async fn settle(self) {
        assert!(self.tree.is_alive(), "the server ended");
        everyday(&self.server).await.expect("the server answers");
        let after = self.tree.settled_below(self.before + LEFT_BEHIND).await;
        println!("memory: {} MB before, {} MB after", self.before >> 20, after >> 20);
    }

    /// Memory is what it was, and nothing was wrong.
    pub async fn end(mut self) {
        let (took, name) = &self.slowest;
        println!("{} inputs; the slowest took {:.1} s: {name}", self.asked, took.as_secs_f64());
        if self.failures.is_empty() {
            let after = self.tree.settled_below(self.before + LEFT_BEHIND).await;
            println!("memory: {} MB before, {} MB after", self.before >> 20, after >> 20);
        } else {
            // Whoever asks for memory once more would hide what was wrong first.
            println!(
                "memory: {} MB before, {} MB after",
                self.before >> 20,
                self.tree.resident_bytes() >> 20
            );
        }
        assert!(self.asked > 0, "a batch without inputs");
        let failures = std::mem::take(&mut self.failures);
        assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), self.asked, failures.join("\n"));
    }
}

/// A short chat with one more field.
pub fn chat(field: &str, value: Value) -> Value {
    let mut body = json!({"model": TINY, "temperature": 0, "max_tokens": 8,
        "messages": [{"role": "user", "content": "Hello!"}]});
    body[field] = value;
    body
}

/// A short generation held to something.
pub fn held(kind: Kind) -> GenerateRequest {
    GenerateRequest {
        constraint: Some(Constraint { kind: Some(kind), field: String::new() }),
        ..greedy(Prompt::Text("Hello!".to_owned()), 8)
    }
}

/// One message of a user.
pub fn message(text: String) -> Prompt {
    let message = Message { role: "user".to_owned(), content: text, ..Message::default() };
    Prompt::Messages(Messages { messages: vec![message], tools_json: String::new() })
}

fn shown(judged: &Judged) -> String {
    match judged {
        Ok(verdict) => verdict.to_string(),
        Err(why) => format!("no typed answer: {why}"),
    }
}
