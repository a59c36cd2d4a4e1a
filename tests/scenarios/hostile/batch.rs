//! A server, and the inputs that are sent to it one by one.

use std::time::{Duration, Instant};

use millm_kit::Reason;
use millm_proto::runtime::v1::generate_request::Prompt;
use millm_proto::runtime::v1::{Constraint, GenerateRequest, Message, Messages, constraint::Kind};
use serde_json::{Value, json};

use crate::harness::{
    Judged, Layout, Options, ProcessTree, Role, Server, TINY, Verdict, everyday, fixture, greedy, post,
};
use crate::hostile_inputs::requests::CHAT;

/// The timeout of an answer. A typed answer comes within five seconds, so an answer this late does not come at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most memory by which the server may grow during a batch.
const LEFT_BEHIND: u64 = 64 << 20;

/// The answers that are right.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// A refusal that names this field, or a part of it (`messages[1].content`).
    Refused(&'static str),
    /// An answer, or a refusal that names this field.
    TakenOrRefused(&'static str),
    /// A refusal of the model's file.
    BadFile,
    /// An answer, or a refusal of the file or of one of these fields.
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

/// Returns whether a sandbox process may have timed out because the machine is busy. Then the answer does not show
/// that the process hangs.
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
    /// Starts a server with the trained model and asks questions of all kinds once.
    pub async fn start() -> Self {
        Self::start_in(Layout::OneProcess).await
    }

    pub async fn start_in(layout: Layout) -> Self {
        // A hostile model is loaded beside the one that keeps answering.
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

    /// Takes the current memory as the baseline: ordinary requests have filled the KV cache and the cache of
    /// grammars.
    pub fn is_warm(&mut self) {
        self.before = self.tree.resident_bytes();
    }

    /// Sends an input, and notes a wrong answer or a change of the server.
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

    /// Checks the server at the end of a test that did not use [`Batch::check`].
    pub async fn settle(self) {
        assert!(self.tree.is_alive(), "the server ended");
        everyday(&self.server).await.expect("the server answers");
        let after = self.tree.settled_below(self.before + LEFT_BEHIND).await;
        println!("memory: {} MB before, {} MB after", self.before >> 20, after >> 20);
    }

    /// Checks that memory has not grown, and that nothing failed.
    pub async fn end(mut self) {
        let (took, name) = &self.slowest;
        println!("{} inputs; the slowest took {:.1} s: {name}", self.asked, took.as_secs_f64());
        if self.failures.is_empty() {
            let after = self.tree.settled_below(self.before + LEFT_BEHIND).await;
            println!("memory: {} MB before, {} MB after", self.before >> 20, after >> 20);
        } else {
            // The memory is only printed: a failed check would hide the first failure.
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

/// Returns a short chat with one more field.
pub fn chat(field: &str, value: Value) -> Value {
    let mut body = json!({"model": TINY, "temperature": 0, "max_tokens": 8,
        "messages": [{"role": "user", "content": "Hello!"}]});
    body[field] = value;
    body
}

/// Returns a short generation with a constraint.
pub fn held(kind: Kind) -> GenerateRequest {
    GenerateRequest {
        constraint: Some(Constraint { kind: Some(kind), field: String::new() }),
        ..greedy(Prompt::Text("Hello!".to_owned()), 8)
    }
}

/// Returns a prompt of one message from a user.
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
