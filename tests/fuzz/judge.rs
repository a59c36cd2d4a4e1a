//! The check of an answer: it must be typed and in time, and the server must still run.

use std::time::{Duration, Instant};

use millm_kit::Reason;
use millm_proto::runtime::v1::GetStatusRequest;

use crate::harness::{Judged, ProcessTree, Server, Verdict};

/// The time within which a typed answer comes on an idle machine.
const PROMISE: Duration = Duration::from_secs(5);
/// The time from which an input is slow enough to be kept.
pub const SLOW: Duration = Duration::from_secs(1);

/// The outcome of an input.
#[derive(Debug)]
pub struct Outcome {
    pub took: Duration,
    pub end: End,
}

#[derive(Debug)]
pub enum End {
    /// A typed answer. Inputs whose answers have the same class are alike.
    Typed(Verdict),
    /// The answer is still being generated: it is long, not late.
    Generating,
    Wrong(String),
}

impl Outcome {
    pub fn class(&self) -> String {
        match &self.end {
            End::Typed(verdict) => class(verdict),
            End::Generating => "generating".to_owned(),
            End::Wrong(why) => format!("wrong: {}", why.chars().take(60).collect::<String>()),
        }
    }

    /// Returns whether the server asked to repeat the request later.
    pub fn is_put_off(&self) -> bool {
        matches!(&self.end, End::Typed(verdict) if verdict.reason == Some(Reason::ServiceUnavailable))
    }

    pub fn is_wrong(&self) -> bool {
        matches!(self.end, End::Wrong(_))
    }
}

/// Returns status, reason and the first words of an answer, without the parts that repeat the input.
fn class(verdict: &Verdict) -> String {
    let Some(reason) = verdict.reason else { return "200".to_owned() };
    let is_plain = |word: &&str| word.chars().all(|c| c.is_ascii_alphabetic() || "-,.:_".contains(c));
    let words: Vec<&str> = verdict.message.split_whitespace().filter(is_plain).take(6).collect();
    format!("{} {} {} {}", verdict.status, reason.name(), verdict.field, words.join(" "))
}

/// Waits for an answer up to the deadline, and checks the answer and the server.
pub async fn judge(server: &Server, tree: &ProcessTree, asked: impl Future<Output = Judged>) -> Outcome {
    let (started, patience) = (Instant::now(), patience());
    let judged = tokio::time::timeout(patience, asked).await;
    let took = started.elapsed();
    let end = match judged {
        _ if !tree.is_alive() => End::Wrong("it ended the server".to_owned()),
        Ok(judged) => typed(judged),
        Err(_) if is_generating(server).await => gone(server).await,
        Err(_) => End::Wrong(format!("nothing within {:.0} s", patience.as_secs_f64())),
    };
    Outcome { took, end }
}

fn typed(judged: Judged) -> End {
    match judged {
        Ok(verdict) if matches!(verdict.reason, Some(Reason::Internal | Reason::ModelLoadFailed)) => {
            End::Wrong(format!("an error of the server's own: {verdict}"))
        }
        Ok(verdict) => End::Typed(verdict),
        Err(why) => End::Wrong(format!("no typed answer: {why}")),
    }
}

async fn is_generating(server: &Server) -> bool {
    let status = server.runtime().get_status(GetStatusRequest {}).await.expect("a status").into_inner();
    status.models.iter().any(|model| model.running_requests > 0)
}

/// Checks that the work ends after its client has disconnected. Polls the status up to the deadline.
async fn gone(server: &Server) -> End {
    let started = Instant::now();
    while is_generating(server).await {
        if started.elapsed() > patience() {
            return End::Wrong("it goes on after the client has left".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    End::Generating
}

/// Returns the deadline: [`PROMISE`], multiplied by the load of each core.
fn patience() -> Duration {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    PROMISE.mul_f64((1.0 + load / cores as f64).max(1.0))
}
