//! The fake hub's own addresses, `/_hub/…`: control of faults, log and content by tests that are not in Rust.

use std::io;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::Response;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::{Problem, error, json_answer};
use crate::fault::Fault;
use crate::state::HubState;

#[derive(Debug, Deserialize)]
struct MoveBranch {
    repo: String,
    branch: String,
    commit: String,
}

/// One fault or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Faults {
    Several(Vec<Fault>),
    One(Box<Fault>),
}

pub(crate) async fn answer(state: &HubState, request: Request) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let body = match to_bytes(request.into_body(), 1 << 20).await {
        Ok(body) => body,
        Err(e) => return error(400, None, &e.to_string()),
    };
    let done = match (&method, path.trim_start_matches("/_hub/")) {
        (&Method::POST, "faults") => arm(state, &body),
        (&Method::GET, "faults") => Ok(json!(state.faults.states())),
        (&Method::DELETE, "faults") => {
            state.faults.clear();
            Ok(Value::Null)
        }
        (&Method::GET, "log") => Ok(json!(state.journal.entries())),
        (&Method::DELETE, "log") => {
            state.journal.clear();
            Ok(Value::Null)
        }
        (&Method::POST, "branch") => move_branch(state, &body),
        (&Method::POST, "expire-links") => {
            state.expire_links();
            Ok(Value::Null)
        }
        (&Method::DELETE, other) => match other.strip_prefix("faults/").map(str::parse) {
            Some(Ok(id)) if state.faults.remove(id) => Ok(Value::Null),
            _ => return Problem::NoSuchPage.answer(),
        },
        _ => return Problem::NoSuchPage.answer(),
    };
    match done {
        Ok(value) => json_answer(200, &value),
        Err(e) => error(400, None, &e.to_string()),
    }
}

/// Arms faults. Returns their ids in the same order.
fn arm(state: &HubState, body: &[u8]) -> io::Result<Value> {
    let faults = match serde_json::from_slice(body)? {
        Faults::Several(faults) => faults,
        Faults::One(fault) => vec![*fault],
    };
    let ids: Vec<u64> = faults.into_iter().map(|fault| state.faults.add(fault).0).collect();
    Ok(json!({ "ids": ids }))
}

fn move_branch(state: &HubState, body: &[u8]) -> io::Result<Value> {
    let MoveBranch { repo, branch, commit } = serde_json::from_slice(body)?;
    state.move_branch(&repo, &branch, &commit)?;
    Ok(Value::Null)
}
