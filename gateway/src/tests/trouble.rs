//! Failures outside of handlers: panics, and headers that are too large.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, body::Body, http::Version, routing::get};
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use millm_kit::Settings;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt as _;

use super::fixture::{Fixture, request};
use crate::{guard::Guard, middleware, openai};

async fn panicking() {
    panic!("injected");
}

fn panicking_everywhere() -> Router {
    let routes = Router::new().route("/v1/models", get(panicking)).route("/{*path}", get(panicking));
    let settings = Settings::load(None, |_| None, &[]).unwrap();
    middleware::wrap(routes, Guard::new(&settings, SocketAddr::from(([127, 0, 0, 1], 8000))))
}

#[tokio::test]
async fn a_panic_answers_in_each_protocol() {
    let send = async |path: &str, kind: &str| {
        let request = request("GET", path).header("content-type", kind).body(Body::empty()).unwrap();
        let (parts, body) = panicking_everywhere().oneshot(request).await.unwrap().into_parts();
        assert!(parts.headers.contains_key("x-request-id"));
        (parts, body.collect().await.unwrap().to_bytes())
    };
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let (parts, bytes) = send("/v1/models", "").await;
    let error = &json(&bytes)["error"];
    assert_eq!(parts.status.as_u16(), 500);
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("internal")));
    assert!(!error["message"].as_str().unwrap().contains("injected"), "its words are for the log");
    let (parts, bytes) = send("/api/models", "").await;
    assert_eq!((parts.status.as_u16(), &json(&bytes)["error"]["code"]), (500, &json!("INTERNAL")));
    let (parts, _) = send("/millm.catalog.v1.CatalogService/GetModel", "application/grpc").await;
    assert_eq!(parts.headers["grpc-status"], "13");
}

#[tokio::test]
async fn a_panic_in_a_stream_is_its_last_event() {
    let chunks = futures::stream::iter([1, 2])
        .map(|n| if n == 2 { panic!("injected") } else { openai::stream::text(&json!({"n": n})) });
    let bytes = openai::stream::answer(chunks).into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!((events.len(), events[0]), (2, r#"data: {"n":1}"#));
    assert!(events[1].contains(r#""code":"internal""#), "{text}");
}

#[tokio::test]
async fn a_large_head_is_refused() {
    let fixture = Fixture::new().await;
    for (path, code) in [("/v1/models", "invalid_argument"), ("/api/models", "INVALID_ARGUMENT")] {
        let large = request("GET", path).header("x-large", "x".repeat(70_000));
        let (status, _, bytes) = fixture.send(large.body(Body::empty()).unwrap()).await;
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (431, &json!(code)));
    }
}

/// Sends an endless head over a socket. The server stops reading at its limit.
#[tokio::test]
async fn an_endless_head_is_refused_before_it_ends() {
    let fixture = Fixture::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = fixture.host.shutdown.clone();
    let server = tokio::spawn(fixture.host.serve(listener, fixture.routes));
    let (mut answers, mut head) = TcpStream::connect(address).await.unwrap().into_split();
    let endless = async {
        let mut next: &[u8] = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-endless: ";
        // Until the server hangs up.
        while head.write_all(next).await.is_ok() {
            next = &[b'x'; 4096];
        }
    };
    let answer = async {
        let mut answer = vec![0; 64];
        let length = answers.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    let both = tokio::time::timeout(Duration::from_secs(60), futures::future::join(endless, answer));
    let ((), answer) = both.await.expect("the head is not read without end");
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    shutdown.stopping.cancel();
    shutdown.forced.cancel();
    server.await.unwrap().unwrap();
}

/// A message's frame: a flag, the length it claims, and what comes of it.
fn frame(flag: u8, claimed: u32, bytes: &[u8]) -> Vec<u8> {
    [&[flag][..], &claimed.to_be_bytes(), bytes].concat()
}

#[tokio::test]
async fn messages_that_cannot_be_read_are_the_callers_fault() {
    let fixture = Fixture::new().await;
    let status = async |kind: &str, body: Vec<u8>| {
        let path = "/millm.catalog.v1.CatalogService/GetModel";
        let request = request("POST", path).version(Version::HTTP_2).header("content-type", kind);
        let (_, headers, bytes) = fixture.send(request.body(Body::from(body)).unwrap()).await;
        let trailers = String::from_utf8_lossy(&bytes).into_owned();
        match headers.get("grpc-status") {
            Some(code) => code.to_str().unwrap().to_owned(),
            None => trailers.split("grpc-status:").nth(1).unwrap_or(&trailers).trim().to_owned(),
        }
    };
    for kind in ["application/grpc", "application/grpc-web+proto"] {
        assert_eq!(status(kind, frame(0, 5, b"\xff\xff\xff\xff\xff")).await, "3", "malformed protobuf");
        assert_eq!(status(kind, frame(0, 3, b"\x0a\x01\xff")).await, "3", "text that is not UTF-8");
        assert_eq!(status(kind, frame(0, 9, b"\x0a")).await, "3", "a message cut short");
        assert_eq!(status(kind, frame(7, 1, b"\x0a")).await, "3", "an unknown flag");
        assert_eq!(status(kind, frame(0, 5 << 20, &[0; 1000])).await, "8", "over the limit");
    }
    assert_eq!(status("application/grpc-web-text+proto", b"!!!!".to_vec()).await, "3", "no base64");
}
