//! The entry points of the two hosts: every request is logged, checked against the armed faults, and answered.

mod api;
mod control;
mod file;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::Response;
use http::Method;
use http::header::RANGE;
use http::request::Parts;

use crate::answer::{Problem, foreign_page, header, json_answer, redirect, status_fault};
use crate::fault::{FaultKind, Request};
use crate::journal::{Host, LogEntry, Ticket};
use crate::route::{RepoId, Route, decode, parameters};
use crate::state::{HubState, Refusal, commit_of};

use self::api::{PagedRequest, Query};
use self::file::{Entry, FileRequest, LogsItself};

/// The most bytes of a form or JSON body.
const BODY_MOST: usize = 1 << 20;

pub(crate) fn hub(state: Arc<HubState>) -> Router {
    Router::new().fallback(at_hub).with_state(state)
}

pub(crate) fn cdn(state: Arc<HubState>) -> Router {
    Router::new().fallback(at_cdn).with_state(state)
}

async fn at_hub(State(state): State<Arc<HubState>>, request: axum::extract::Request) -> Response {
    if request.uri().path().starts_with("/_hub/") {
        return control::answer(&state, request).await;
    }
    let (parts, body) = request.into_parts();
    let path = decode(parts.uri.path());
    let ticket = enter(&state, Host::Hub, &parts, &path);
    let mut response = match answer_fault(&state, Host::Hub, &parts, &path).await {
        Some(response) => response,
        None => match hub_answer(&state, &parts, body, &path, &ticket).await {
            Ok(response) => response,
            Err(Refusal::Problem(problem)) => problem.answer(),
            Err(Refusal::Moved { id }) => redirect(307, &moved(parts.uri.path(), &id)),
        },
    };
    let id = format!("Root=1-{:08x}", ticket.number());
    response.headers_mut().insert("x-request-id", header(&id));
    close(&ticket, response)
}

async fn at_cdn(State(state): State<Arc<HubState>>, request: axum::extract::Request) -> Response {
    let (parts, _) = request.into_parts();
    let path = decode(parts.uri.path());
    let ticket = enter(&state, Host::Cdn, &parts, &path);
    if let Some(response) = answer_fault(&state, Host::Cdn, &parts, &path).await {
        return close(&ticket, response);
    }
    let (method, headers) = (parts.method.as_str(), &parts.headers);
    let wanted = FileRequest { method, path: &path, headers, ticket: &ticket };
    let query = parts.uri.query().unwrap_or_default();
    let response = file::cdn(&state, &wanted, parts.uri.path(), query)
        .unwrap_or_else(|_| file::denied("Internal Error"));
    close(&ticket, response)
}

fn enter(state: &HubState, host: Host, parts: &Parts, path: &str) -> Ticket {
    let range = parts.headers.get(RANGE).and_then(|value| value.to_str().ok());
    state.journal.open(LogEntry {
        number: 0,
        at_ms: 0,
        host,
        method: parts.method.to_string(),
        path: path.to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        range: range.map(str::to_owned),
        authorized: parts.headers.contains_key(http::header::AUTHORIZATION),
        status: 0,
        bytes_sent: 0,
        complete: false,
    })
}

fn close(ticket: &Ticket, response: Response) -> Response {
    ticket.status(response.status().as_u16());
    if response.extensions().get::<LogsItself>().is_none() {
        ticket.complete();
    }
    response
}

/// Returns the answer of a fault, if one replaces the hub's answer. Waits first if faults demand it.
async fn answer_fault(state: &HubState, host: Host, parts: &Parts, path: &str) -> Option<Response> {
    let request = Request { host, method: parts.method.as_str(), path };
    for fault in state.faults.on_answer(request) {
        match fault.kind {
            FaultKind::Latency { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
            FaultKind::Stall { for_ms, .. } => {
                fault.gate.hold(for_ms.map(Duration::from_millis)).await;
            }
            FaultKind::Status { code, retry_after, rate_limit_seconds } => {
                return Some(status_fault(code, retry_after.as_deref(), rate_limit_seconds));
            }
            FaultKind::RedirectLoop => return Some(sent_on(path, &parts.uri.to_string())),
            FaultKind::Redirect { location } => return Some(sent_on(path, &location)),
            FaultKind::ExpiredLink if host == Host::Cdn => {
                return Some(file::denied("Request has expired"));
            }
            FaultKind::NotAHub => return Some(foreign_page()),
            _ => {}
        }
    }
    None
}

/// Returns a redirect in the hub's form: with the commit if the path names a file of a commit.
fn sent_on(path: &str, location: &str) -> Response {
    let mut response = redirect(302, location);
    let commit = path.split_once("/resolve/").and_then(|(_, rest)| rest.split('/').next());
    if let Some(commit) = commit.filter(|commit| commit.len() == 40) {
        response.headers_mut().insert("x-repo-commit", header(commit));
    }
    response
}

async fn hub_answer(
    state: &HubState,
    parts: &Parts,
    body: Body,
    path: &str,
    ticket: &Ticket,
) -> Result<Response, Refusal> {
    let token = state.token(&parts.headers)?;
    let token = token.as_deref();
    let query = Query(parameters(parts.uri.query().unwrap_or_default()));
    let paged = PagedRequest { path, query: &query };
    match (&parts.method, Route::parse(parts.uri.path())) {
        (&Method::GET, Route::WhoAmI) => Ok(json_answer(200, &api::who_am_i(state, token)?)),
        (&Method::GET, Route::List(kind)) => Ok(api::list(state, kind, token, &paged)),
        (&Method::GET, Route::Info { repo, revision }) => {
            let repo = state.described(&repo, token)?;
            let commit = commit_of(&repo, &revision)?;
            Ok(json_answer(200, &api::info(&repo, &commit, &query)))
        }
        (&Method::GET, Route::Tree { repo, revision, path }) => {
            let repo = state.described(&repo, token)?;
            let commit = commit_of(&repo, &revision)?;
            Ok(api::tree(state, &repo, &commit, &path, &paged)?)
        }
        (&Method::POST, Route::PathsInfo { repo, revision }) => {
            let repo = state.described(&repo, token)?;
            let commit = commit_of(&repo, &revision)?;
            let body = to_bytes(body, BODY_MOST).await;
            let body = body.map_err(|e| Problem::BadRequest { message: e.to_string() })?;
            Ok(json_answer(200, &api::paths_info(&repo, &commit, &body)?))
        }
        (&Method::GET, Route::XetToken { repo, revision }) => {
            let repo = state.readable(&repo, token)?;
            commit_of(&repo, &revision)?;
            Ok(file::xet_token(state))
        }
        (&Method::GET | &Method::HEAD, Route::Resolve { repo, revision, path: file }) => {
            let wanted = Wanted { repo, revision, file, cached: false };
            resolve(state, parts, path, ticket, (token, &wanted))
        }
        (&Method::GET | &Method::HEAD, Route::ResolveCache { repo, revision, path: file }) => {
            let wanted = Wanted { repo, revision, file, cached: true };
            resolve(state, parts, path, ticket, (token, &wanted))
        }
        _ => Err(Problem::NoSuchPage.into()),
    }
}

struct Wanted {
    repo: RepoId,
    revision: String,
    file: String,
    cached: bool,
}

fn resolve(
    state: &HubState,
    parts: &Parts,
    path: &str,
    ticket: &Ticket,
    (token, wanted): (Option<&str>, &Wanted),
) -> Result<Response, Refusal> {
    let repo = state.readable(&wanted.repo, token)?;
    let commit = commit_of(&repo, &wanted.revision)?;
    let (method, headers) = (parts.method.as_str(), &parts.headers);
    let request = FileRequest { method, path, headers, ticket };
    let entry = Entry {
        repo_id: &wanted.repo,
        repo: &repo,
        commit: &commit,
        path: &wanted.file,
        cached: wanted.cached,
    };
    Ok(file::resolve(state, &request, &entry)?)
}

/// Returns the address with the repository's own id, which differs in case only.
fn moved(path: &str, id: &str) -> String {
    let at = path.to_lowercase().find(&id.to_lowercase());
    at.map_or_else(|| path.to_owned(), |at| format!("{}{id}{}", &path[..at], &path[at + id.len()..]))
}
