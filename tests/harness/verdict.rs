//! The outcome of a request, the same for every protocol: success, or a refusal with a reason of the error table.

use std::fmt;

use millm_kit::{Reason, ServiceError};
use serde_json::Value;
use tonic::{Code, Status};

use super::cli::Outcome;
use super::rest::Answer;

/// A typed answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The reason of a refusal; `None` for success.
    pub reason: Option<Reason>,
    pub status: u16,
    /// `details.field` of a refusal.
    pub field: String,
    /// The message of a refusal, or the text of an answer.
    pub message: String,
}

/// A typed answer, or a description of an answer that is not typed.
pub type Judged = Result<Verdict, String>;

impl Verdict {
    pub fn taken(text: &str) -> Self {
        Self { reason: None, status: 200, field: String::new(), message: text.to_owned() }
    }

    pub fn is_taken(&self) -> bool {
        self.reason.is_none()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message: String = self.message.chars().take(160).collect();
        match self.reason {
            None => write!(f, "200 {message:?}"),
            Some(reason) => write!(f, "{} {} {:?} {message:?}", self.status, reason.name(), self.field),
        }
    }
}

impl From<&ServiceError> for Verdict {
    fn from(error: &ServiceError) -> Self {
        Self {
            reason: Some(error.reason),
            status: error.http_status(),
            field: error.details.get("field").cloned().unwrap_or_default(),
            message: error.message.clone(),
        }
    }
}

/// Judges a gRPC status. Only a message that cannot be decoded has a code without details (`kit::decode_errors`). Any
/// other status without details comes from a broken connection.
pub fn judge_status(status: &Status) -> Judged {
    let may_be_bare = [Code::Unimplemented, Code::InvalidArgument, Code::ResourceExhausted];
    if status.details().is_empty() && !may_be_bare.contains(&status.code()) {
        return Err(format!("{:?}: {}", status.code(), status.message()));
    }
    Ok(Verdict::from(&ServiceError::from(status)))
}

/// Judges a REST answer of the OpenAI API or the management API, or a stream of events.
pub fn judge_answer(answer: &Answer) -> Judged {
    if answer.status == 200 {
        return if answer.json.is_null() { judge_events(&answer.text) } else { Ok(taken(&answer.json)) };
    }
    let error = error_of(&answer.json).ok_or_else(|| format!("{} {}", answer.status, shown(&answer.text)))?;
    Ok(Verdict { status: answer.status, ..error })
}

/// Judges events up to `[DONE]`, or up to the error that ended them.
pub fn judge_events(text: &str) -> Judged {
    let mut said = String::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
        if line == "[DONE]" {
            return Ok(Verdict::taken(&said));
        }
        let event: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {}", shown(line)))?;
        if let Some(error) = error_of(&event) {
            return Ok(error);
        }
        said += text_of(&event);
    }
    Err(format!("a stream without an end: {}", shown(text)))
}

/// Judges the end of a command. `--json` has the reason of its failure.
pub fn judge_outcome(outcome: &Outcome) -> Judged {
    if outcome.code == 0 {
        return Ok(Verdict::taken(""));
    }
    let last = outcome.stdout.trim_end().lines().last().unwrap_or_default();
    let json: Value = serde_json::from_str(last).unwrap_or_default();
    error_of(&json).ok_or_else(|| format!("exit code {}: {}{}", outcome.code, outcome.stdout, outcome.stderr))
}

/// Parses an error of OpenAI's form or of the envelope: `{"error": {"code", "message", "param" or "details":
/// {"field"}}}`.
fn error_of(body: &Value) -> Option<Verdict> {
    let error = &body["error"];
    let reason = Reason::from_name(&error["code"].as_str()?.to_ascii_uppercase())?;
    let field = error["param"].as_str().or_else(|| error["details"]["field"].as_str()).unwrap_or_default();
    let message = error["message"].as_str()?.to_owned();
    Some(Verdict { reason: Some(reason), status: reason.http_status(), field: field.to_owned(), message })
}

fn taken(body: &Value) -> Verdict {
    Verdict::taken(text_of(body))
}

/// Returns the text of the first choice, of a whole answer or of an event.
fn text_of(body: &Value) -> &str {
    let choice = &body["choices"][0];
    let places = ["/text", "/message/content", "/delta/content", "/message/tool_calls/0/function/arguments"];
    places.iter().find_map(|place| choice.pointer(place).and_then(Value::as_str)).unwrap_or_default()
}

fn shown(text: &str) -> String {
    text.chars().take(300).collect()
}
