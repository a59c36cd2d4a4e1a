//! The files of extractions over HTTP: whole, in parts, without a body, and when they cannot be had.

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode},
};
use http_body_util::BodyExt as _;
use millm_kit::ServiceError;
use millm_proto::inspection::v1::{Extraction, ExtractionFile, extraction::State};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::fixture::{Fixture, request};

const PATH: &str = "/api/extractions/7/files/resid_post.layer0.npy";

fn extraction(state: State, files: &[(&str, i64)]) -> Extraction {
    let file = |&(name, size_bytes): &(&str, i64)| ExtractionFile {
        name: name.to_owned(),
        size_bytes,
        sha256: "abc".to_owned(),
    };
    let files = files.iter().map(file).collect();
    Extraction { id: "7".into(), state: state.into(), files, ..Extraction::default() }
}

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    let files = [("resid_post.layer0.npy", 10), ("empty.jsonl", 0)];
    fixture.stage.inspection.extractions.lock().unwrap().push(extraction(State::Succeeded, &files));
    *fixture.stage.inspection.content.lock().unwrap() = b"0123456789".to_vec();
    fixture
}

async fn ask(fixture: &Fixture, method: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Vec<u8>) {
    let mut asked = request(method, PATH);
    for (name, value) in headers {
        asked = asked.header(*name, *value);
    }
    fixture.send(asked.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn whole_files() {
    let fixture = fixture().await;
    let (status, headers, bytes) = ask(&fixture, "GET", &[]).await;
    assert_eq!((status.as_u16(), bytes.as_slice()), (200, &b"0123456789"[..]));
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("content-length", "10"),
        ("content-disposition", "attachment; filename=\"resid_post.layer0.npy\""),
        ("accept-ranges", "bytes"),
        ("etag", "\"abc\""),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(headers[name], value);
    }
    let (status, headers, bytes) = ask(&fixture, "GET", &[("if-none-match", "\"x\", \"abc\"")]).await;
    assert_eq!((status.as_u16(), bytes.len(), &headers["etag"]), (304, 0, &"\"abc\"".parse().unwrap()));
    let empty = request("GET", "/api/extractions/7/files/empty.jsonl").body(Body::empty()).unwrap();
    let (status, _, bytes) = fixture.send(empty).await;
    assert_eq!((status.as_u16(), bytes.len()), (200, 0));
}

#[tokio::test]
async fn heads_read_nothing() {
    let fixture = fixture().await;
    let (status, headers, bytes) = ask(&fixture, "HEAD", &[]).await;
    assert_eq!((status.as_u16(), bytes.len(), &headers["content-length"]), (200, 0, &"10".parse().unwrap()));
    assert!(fixture.stage.inspection.reads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn parts() {
    let fixture = fixture().await;
    for (range, content, told) in [
        ("bytes=2-5", "2345", "bytes 2-5/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-4", "6789", "bytes 6-9/10"),
        ("bytes=8-100", "89", "bytes 8-9/10"),
    ] {
        let (status, headers, bytes) = ask(&fixture, "GET", &[("range", range)]).await;
        assert_eq!((status.as_u16(), bytes.as_slice()), (206, content.as_bytes()), "{range}");
        assert_eq!((&headers["content-range"], headers["content-length"].len()), (&told.parse().unwrap(), 1));
    }
    let reads = fixture.stage.inspection.reads.lock().unwrap().clone();
    assert_eq!((reads[0].offset, reads[0].length), (2, 4), "no more is read than is sent");
    let (status, _, bytes) = ask(&fixture, "GET", &[("range", "bytes=0-1"), ("if-range", "\"abc\"")]).await;
    assert_eq!((status.as_u16(), bytes.len()), (206, 2));
    for headers in
        [[("range", "bytes=0-1"), ("if-range", "\"old\"")], [("range", "bytes=1-2,4-5"), ("x", "y")]]
    {
        let (status, _, bytes) = ask(&fixture, "GET", &headers).await;
        assert_eq!((status.as_u16(), bytes.len()), (200, 10));
    }
    let (status, headers, bytes) = ask(&fixture, "GET", &[("range", "bytes=10-")]).await;
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((status.as_u16(), &headers["content-range"]), (416, &"bytes */10".parse().unwrap()));
    assert_eq!(answer["error"]["details"]["field"], "range");
}

#[tokio::test]
async fn files_that_cannot_be_had() {
    let fixture = fixture().await;
    for name in ["nothing.npy", "..%2F..%2Fetc%2Fpasswd"] {
        let (status, answer) = fixture.get(&format!("/api/extractions/7/files/{name}")).await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("NOT_FOUND")));
    }
    *fixture.stage.refusal.lock().unwrap() = Some(ServiceError::service_unavailable("runtime"));
    assert_eq!(fixture.get(PATH).await.0, 503);
    *fixture.stage.inspection.extractions.lock().unwrap() = vec![extraction(State::Running, &[])];
    let (status, answer) = fixture.get(PATH).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("EXTRACTION_RUNNING")));
}

/// A file that is shorter than its extraction says must not look complete.
#[tokio::test]
async fn shorter_files_break_off() {
    let fixture = fixture().await;
    *fixture.stage.inspection.content.lock().unwrap() = b"0123".to_vec();
    let asked = request("GET", PATH).body(Body::empty()).unwrap();
    let response = fixture.routes.clone().oneshot(asked).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    response.into_body().collect().await.unwrap_err();
}
