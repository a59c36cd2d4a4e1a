//! The id of a request: the caller's or ours, in the answer, in errors, and in the calls of the services.

use std::io;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{FinishReason, GenerateEnd, GenerateResponse, GenerateStart};
use serde_json::{Value, json};
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::fmt::MakeWriter;

use super::fixture::{Fixture, request};

async fn id_of(fixture: &Fixture, given: Option<&[u8]>) -> String {
    let mut request = request("GET", "/healthz");
    if let Some(given) = given {
        request = request.header("x-request-id", given);
    }
    let (_, headers, _) = fixture.send(request.body(Body::empty()).unwrap()).await;
    headers["x-request-id"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_sane_id_is_kept_and_any_other_replaced() {
    let fixture = Fixture::new().await;
    assert_eq!(id_of(&fixture, Some(b"mine")).await, "mine");
    assert_eq!(id_of(&fixture, None).await.len(), 32);
    for bad in [&b"two words"[..], b"", &[b'x'; 129], b"\xff"] {
        let id = id_of(&fixture, Some(bad)).await;
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
}

#[tokio::test]
async fn every_error_names_it() {
    let fixture = Fixture::new().await;
    *fixture.stage.refusal.lock().unwrap() = Some(ServiceError::in_use("b"));
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (method, path, body, member) in [
        ("GET", "/api/nothing", json!({}), "/error/details/request_id"),
        ("GET", "/v1/nothing", json!({}), "/error/request_id"),
        ("PUT", "/api/models", json!({}), "/error/details/request_id"),
        ("POST", "/api/models", json!({"repo_id": 1}), "/error/details/request_id"),
        ("DELETE", "/api/models/1", json!({}), "/error/details/request_id"),
        ("POST", "/v1/chat/completions", json!({}), "/error/request_id"),
        ("POST", "/v1/chat/completions", chat, "/error/request_id"),
        ("GET", "/api/models/%ff", json!({}), "/error/details/request_id"),
        ("GET", "/api/models/1/memory?context_length=x", json!({}), "/error/details/request_id"),
    ] {
        let request = request(method, path).header("content-type", "application/json");
        let request = request.header("x-request-id", "1234").body(Body::from(body.to_string())).unwrap();
        let (status, headers, bytes) = fixture.send(request).await;
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(status.is_client_error(), "{path}: {status}");
        assert_eq!(answer.pointer(member), Some(&json!("1234")), "{method} {path}: {answer}");
        assert_eq!(headers["x-request-id"], "1234");
    }
}

fn hello() -> Vec<Result<GenerateResponse, tonic::Status>> {
    let start = GenerateStart { handle: "tiny".into(), ..GenerateStart::default() };
    let end = GenerateEnd { finish_reason: FinishReason::Stop.into(), ..GenerateEnd::default() };
    vec![Ok(GenerateResponse { start: Some(start), end: Some(end), text: "hi".into(), ..Default::default() })]
}

#[tokio::test]
async fn the_services_are_told() {
    let fixture = Fixture::new().await;
    fixture.stage.generations.lock().unwrap().push(hello());
    let send = async |method: &str, path: &str, body: Value| {
        let request = request(method, path).header("content-type", "application/json");
        let request = request.header("x-request-id", "mine").body(Body::from(body.to_string())).unwrap();
        let (status, ..) = fixture.send(request).await;
        assert_eq!(status.as_u16(), 200);
        std::mem::take(&mut *fixture.stage.request_ids.lock().unwrap())
    };
    assert_eq!(send("GET", "/api/models", json!({})).await, ["mine"]);
    // The choices beyond the first are asked for while the answer is being sent.
    let chat = json!({"model": "m", "n": 4, "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(send("POST", "/v1/chat/completions", chat).await, ["mine"; 4]);
}

/// The captured log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn log_lines_have_it() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .finish();
    *fixture.stage.refusal.lock().unwrap() = Some(ServiceError::internal("injected"));
    let request = request("DELETE", "/api/models/1").header("x-request-id", "mine-7");
    fixture.send(request.body(Body::empty()).unwrap()).with_subscriber(subscriber).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("request_id=mine-7")), "{text}");
}
