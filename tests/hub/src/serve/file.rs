//! Files: `resolve` on the hub, which serves small files itself and redirects to the CDN for files in LFS, and the CDN,
//! which serves every request with a valid link.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, IF_RANGE, LINK, RANGE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::answer::{Problem, header, json_answer, redirect, with_body};
use crate::body::{BodyPlan, Sending};
use crate::fault::{FaultKind, Request};
use crate::journal::{Host, Ticket};
use crate::repo::blob::Blob;
use crate::repo::{Commit, Kind, Repo};
use crate::route::{RepoId, decode, encode_path, parameters};
use crate::state::HubState;

const REPO_COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");

/// Marks an answer whose body logs its own end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogsItself;

/// A request for a file, on either host.
pub(crate) struct FileRequest<'a> {
    pub method: &'a str,
    /// The decoded path.
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub ticket: &'a Ticket,
}

/// A file of a commit.
pub(crate) struct Entry<'a> {
    pub repo_id: &'a RepoId,
    pub repo: &'a Repo,
    pub commit: &'a Commit,
    pub path: &'a str,
    /// True if the request has followed the redirect to `/api/resolve-cache/`.
    pub cached: bool,
}

/// Answers HEAD or GET of `resolve`.
pub(crate) fn resolve(
    state: &HubState,
    request: &FileRequest<'_>,
    entry: &Entry<'_>,
) -> Result<Response, Problem> {
    let Some(blob) = entry.commit.files.get(entry.path) else {
        let revision = entry.commit.sha.clone();
        return Err(Problem::EntryNotFound { revision, path: entry.path.to_owned() });
    };
    let quoted = header(&format!("\"{}\"", blob.etag()));
    let mut headers = HeaderMap::new();
    headers.insert(REPO_COMMIT, header(&entry.commit.sha));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if blob.pointer_size.is_some() {
        headers.insert(LINKED_SIZE, blob.size.into());
        headers.insert(LINKED_ETAG, quoted);
        if entry.repo.settings.xet {
            add_xet(state, &mut headers, entry, blob);
        }
        let mut response = redirect(302, &state.sign(entry.repo_id, blob, entry.path));
        response.headers_mut().extend(headers);
        return Ok(response);
    }
    headers.insert(ETAG, quoted);
    if state.options.resolve_cache && !entry.cached {
        let mut response = redirect(307, &cache_address(entry, blob));
        response.headers_mut().extend(headers);
        return Ok(response);
    }
    let name = entry.path.rsplit('/').next().unwrap_or(entry.path);
    let disposition = format!("inline; filename*=UTF-8''{0}; filename=\"{0}\";", encode_path(name));
    headers.insert(CONTENT_DISPOSITION, header(&disposition));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    deliver(state, Host::Hub, request, blob, headers).map_err(|error| unreadable(&error))
}

fn unreadable(error: &io::Error) -> Problem {
    Problem::BadRequest { message: format!("the fake hub cannot read its file: {error}") }
}

fn cache_address(entry: &Entry<'_>, blob: &Blob) -> String {
    let kind = kind_segment(entry.repo_id.kind);
    let id = &entry.repo_id.id;
    let id = if id.contains('/') { id.clone() } else { format!("_/{id}") };
    let path = encode_path(entry.path);
    let commit = &entry.commit.sha;
    format!("/api/resolve-cache/{kind}/{id}/{commit}/{path}?etag=%22{}%22", blob.etag())
}

fn kind_segment(kind: Kind) -> &'static str {
    match kind {
        Kind::Model => "models",
        Kind::Dataset => "datasets",
    }
}

fn add_xet(state: &HubState, headers: &mut HeaderMap, entry: &Entry<'_>, blob: &Blob) {
    let hub = &state.origins().hub;
    let kind = kind_segment(entry.repo_id.kind);
    let id = &entry.repo_id.id;
    let links = format!(
        "<{hub}/api/{kind}/{id}/xet-read-token/{}>; rel=\"xet-auth\", <{hub}/v1/reconstructions/{}>; rel=\"xet-reconstruction-info\"",
        entry.commit.sha, blob.sha256
    );
    headers.insert("x-xet-hash", header(&blob.sha256));
    headers.insert(LINK, header(&links));
}

/// Returns a token for the Xet storage, which the fake hub does not have.
pub(crate) fn xet_token(state: &HubState) -> Response {
    let cas = format!("{}/xet", state.origins().cdn);
    let mut response =
        json_answer(200, &json!({ "accessToken": "xet_test", "exp": 4_102_444_800u64, "casUrl": cas }));
    let headers = response.headers_mut();
    headers.insert("x-xet-cas-url", header(&cas));
    headers.insert("x-xet-access-token", HeaderValue::from_static("xet_test"));
    headers.insert("x-xet-token-expiration", HeaderValue::from_static("4102444800"));
    response
}

/// Answers HEAD or GET of a signed link. `raw_path` is percent-encoded.
pub(crate) fn cdn(
    state: &HubState,
    request: &FileRequest<'_>,
    raw_path: &str,
    query: &str,
) -> io::Result<Response> {
    if !state.link_is_good(raw_path, &parameters(query)) {
        return Ok(denied("Request has expired"));
    }
    match signed_blob(state, raw_path) {
        Some(blob) => deliver(state, Host::Cdn, request, &blob, cdn_headers(&blob)),
        None => Ok(denied("Access Denied")),
    }
}

pub(crate) fn denied(message: &str) -> Response {
    let body = format!("<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>");
    with_body(403, "application/xml", body)
}

/// Returns the blob of an address `/models/owner%2Fname/sha256/path`.
fn signed_blob(state: &HubState, raw_path: &str) -> Option<Arc<Blob>> {
    let mut segments = raw_path.split('/').skip(1);
    let kind = match segments.next()? {
        "models" => Kind::Model,
        "datasets" => Kind::Dataset,
        _ => return None,
    };
    let id = RepoId { kind, id: decode(segments.next()?) };
    state.blob(&id, segments.next()?)
}

fn cdn_headers(blob: &Blob) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // The CDN's etag is the storage's own hash. It looks like the file's sha256 and is not.
    let etag = hex::encode(Sha256::digest(format!("object {}", blob.sha256)));
    headers.insert(ETAG, header(&format!("\"{etag}\"")));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers
}

/// The part of a file that a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Slice {
    Whole,
    Part { start: u64, end: u64 },
    Unsatisfiable,
}

/// Sends a file or a part of it. `headers` are those that every status has.
fn deliver(
    state: &HubState,
    host: Host,
    request: &FileRequest<'_>,
    blob: &Blob,
    headers: HeaderMap,
) -> io::Result<Response> {
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = headers;
    let etag = response.headers().get(ETAG).cloned();
    let asked = |name: HeaderName| request.headers.get(name);
    if etag.is_some() && asked(IF_NONE_MATCH) == etag.as_ref() {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let get = request.method == "GET";
    let faults = if get {
        state.faults.on_body(Request { host, method: request.method, path: request.path })
    } else {
        Vec::new()
    };
    // The hub compresses text for clients that accept it. Then there are no lengths and no ranges.
    let compresses = host == Host::Hub
        && asked(ACCEPT_ENCODING).is_some_and(|value| value.to_str().is_ok_and(|v| v.contains("gzip")));
    let ignore_range = compresses
        || faults.iter().any(|fault| fault.kind == FaultKind::IgnoreRange)
        || asked(IF_RANGE).is_some_and(|value| Some(value) != etag.as_ref());
    let mut slice = match asked(RANGE).and_then(|value| value.to_str().ok()) {
        Some(range) if !ignore_range => slice_of(range, blob.size),
        _ => Slice::Whole,
    };
    for fault in &faults {
        match (&fault.kind, &mut slice) {
            (FaultKind::RangeNotSatisfiable, _) => slice = Slice::Unsatisfiable,
            (FaultKind::WrongStart { before }, Slice::Part { start, .. }) => {
                *start = start.saturating_sub(*before);
            }
            _ => {}
        }
    }
    let (start, end) = match slice {
        Slice::Whole => (0, blob.size),
        Slice::Part { start, end } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {start}-{}/{}", end - 1, blob.size);
            response.headers_mut().insert(CONTENT_RANGE, header(&range));
            (start, end)
        }
        Slice::Unsatisfiable => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            let range = format!("bytes */{}", blob.size);
            response.headers_mut().insert(CONTENT_RANGE, header(&range));
            response.headers_mut().insert(CONTENT_LENGTH, 0.into());
            return Ok(response);
        }
    };
    let plan = BodyPlan::new(faults, start, end);
    if compresses {
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    } else if !plan.endless {
        response.headers_mut().insert(CONTENT_LENGTH, (end - start - plan.short_by).into());
    }
    if get {
        let ticket = request.ticket.clone();
        let reader = blob.content.open()?;
        // Half of the socket's buffer, so that the next piece is read while the last one is being sent.
        let piece = u64::from(state.options.send_buffer / 2).max(1);
        let sending = Sending { reader, position: start, end, size: blob.size, plan, piece, ticket };
        *response.body_mut() = sending.into_body();
        response.extensions_mut().insert(LogsItself);
    }
    Ok(response)
}

/// Parses a range of a file of `size` bytes. Several ranges, or a text that is not a range, select the whole file.
fn slice_of(range: &str, size: u64) -> Slice {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Slice::Whole;
    };
    let (start, end) = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(start), Ok(last)) if last >= start => (start, size.min(last.saturating_add(1))),
        (Ok(start), Err(_)) if last.is_empty() => (start, size),
        (Err(_), Ok(count)) if first.is_empty() => (size.saturating_sub(count), size),
        _ => return Slice::Whole,
    };
    if start >= end { Slice::Unsatisfiable } else { Slice::Part { start, end } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (range, expected) in [
            ("bytes=0-", Slice::Part { start: 0, end: 10 }),
            ("bytes=3-5", Slice::Part { start: 3, end: 6 }),
            ("bytes=3-99", Slice::Part { start: 3, end: 10 }),
            ("bytes=-4", Slice::Part { start: 6, end: 10 }),
            ("bytes=-99", Slice::Part { start: 0, end: 10 }),
            ("bytes=10-", Slice::Unsatisfiable),
            ("bytes=-0", Slice::Unsatisfiable),
            ("bytes=5-3", Slice::Whole),
            ("bytes=1-2,4-5", Slice::Whole),
            ("lines=1-2", Slice::Whole),
        ] {
            assert_eq!(slice_of(range, 10), expected, "{range}");
        }
    }
}
