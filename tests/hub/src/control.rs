//! The fake hub's own addresses, `/_hub/…`: faults, log and content for tests that are not in Rust.

use std::io;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::Response;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::{Problem, error, json_answer};
use crate::fault::Fault;
use crate::world::World;

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

pub(crate) async fn answer(world: &World, request: Request) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let body = match to_bytes(request.into_body(), 1 << 20).await {
        Ok(body) => body,
        Err(e) => return error(400, None, &e.to_string()),
    };
    let done = match (&method, path.trim_start_matches("/_hub/")) {
        (&Method::POST, "faults") => arm(world, &body),
        (&Method::GET, "faults") => Ok(json!(world.faults.states())),
        (&Method::DELETE, "faults") => {
            world.faults.clear();
            Ok(Value::Null)
        }
        (&Method::GET, "log") => Ok(json!(world.journal.entries())),
        (&Method::DELETE, "log") => {
            world.journal.clear();
            Ok(Value::Null)
        }
        (&Method::POST, "branch") => move_branch(world, &body),
        (&Method::POST, "expire-links") => {
            world.expire_links();
            Ok(Value::Null)
        }
        (&Method::DELETE, other) => match other.strip_prefix("faults/").map(str::parse) {
            Some(Ok(id)) if world.faults.remove(id) => Ok(Value::Null),
            _ => return Problem::NoSuchPage.answer(),
        },
        _ => return Problem::NoSuchPage.answer(),
    };
    match done {
        Ok(value) => json_answer(200, &value),
        Err(e) => error(400, None, &e.to_string()),
    }
}

/// Arms faults; their ids in the same order.
fn arm(world: &World, body: &[u8]) -> io::Result<Value> {
    let faults = match serde_json::from_slice(body)? {
        Faults::Several(faults) => faults,
        Faults::One(fault) => vec![*fault],
    };
    let ids: Vec<u64> = faults.into_iter().map(|fault| world.faults.add(fault).0).collect();
    Ok(json!({ "ids": ids }))
}

fn move_branch(world: &World, body: &[u8]) -> io::Result<Value> {
    let MoveBranch { repo, branch, commit } = serde_json::from_slice(body)?;
    world.move_branch(&repo, &branch, &commit)?;
    Ok(Value::Null)
}
