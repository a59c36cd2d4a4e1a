//! The JSON of miLLM as types: what the management API and the OpenAI API take and answer, and what the command line
//! prints with `--json`. OpenAPI documents are generated from the same types.
//!
//! [`Status::of`] is the only place that joins what the three services know of a model into one word.

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

pub mod cli;
pub mod download;
pub mod envelope;
pub mod events;
pub mod health;
pub mod hub;
pub mod load;
pub mod model;
pub mod openai;
pub mod preview;
pub mod source;
pub mod status;
pub mod system;

pub use envelope::{Error, Failure, Success};
pub use model::Model;
pub use source::Source;
pub use status::{FailedStep, Status};

/// Returns the text, or `None` when it is empty: protobuf has no other way to say that there is none.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the time in RFC 3339, `2026-01-30T12:00:00Z`.
fn time(time: Option<&prost_types::Timestamp>) -> Option<String> {
    time.map(ToString::to_string)
}

/// Returns decimal megabytes, rounded down.
const fn megabytes(bytes: i64) -> i64 {
    bytes / 1_000_000
}

/// Returns 0 to 100 with one digit after the point, from 0 to 1.
fn percent(fraction: f64) -> f64 {
    (fraction.clamp(0.0, 1.0) * 1000.0).round() / 10.0
}
