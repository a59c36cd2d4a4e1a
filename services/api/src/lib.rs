//! The JSON of miLLM's APIs as types: the requests and answers of the management API and the OpenAI API, and the output of
//! the command line with `--json`. The endpoints themselves are in the gateway (`gateway/src/management`,
//! `gateway/src/openai`). The OpenAPI documents are generated from the same types, so doc comments here are documentation
//! for users.
//!
//! [`Status::of`] is the only place that computes a model's status from the states of the three services.

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

pub mod cli;
pub mod download;
pub mod envelope;
pub mod events;
pub mod health;
pub mod hub;
pub mod inspection;
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

/// Returns the text, or `None` if it is empty: in protobuf an empty text means that there is none.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns a time in RFC 3339: `2026-01-30T12:00:00Z`.
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
