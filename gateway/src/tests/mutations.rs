//! Damaged requests, the same ones in every run: each is answered, and never as if it were the server's fault.

#[path = "../../../services/model/tests/hostile/mutate.rs"]
mod mutate;

use axum::{body::Body, http::Version};
use millm_proto::{
    downloader::v1::Download,
    runtime::v1::{FinishReason, GenerateEnd, GenerateResponse, GenerateStart},
};
use serde_json::json;

use self::mutate::{Rng, mutated};
use super::fixture::{Fixture, request};

const CASES: u64 = 1_500;

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    let start = GenerateStart { handle: "tiny".into(), ..GenerateStart::default() };
    let end = GenerateEnd { finish_reason: FinishReason::Stop.into(), ..GenerateEnd::default() };
    let whole = GenerateResponse {
        start: Some(start),
        text: "hi".into(),
        end: Some(end),
        ..GenerateResponse::default()
    };
    fixture.stage.generations.lock().unwrap().push(vec![Ok(whole)]);
    fixture.stage.downloads.lock().unwrap().push(Download::default());
    fixture
}

#[tokio::test]
async fn damaged_json() {
    let fixture = fixture().await;
    let chat = json!({
        "model": "tiny", "n": 2, "temperature": 0.5, "top_p": 0.9, "max_tokens": 5, "seed": 7, "stop": ["x", "y"],
        "logit_bias": {"5": -10}, "logprobs": true, "top_logprobs": 2, "stream": false,
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "me"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "content": "2", "tool_call_id": "1"},
        ],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
    });
    let completion =
        json!({"model": "tiny", "prompt": ["a", "b"], "echo": true, "logprobs": 2, "max_tokens": 3});
    let register =
        json!({"source": "huggingface", "repo_id": "a/b", "quantization": "Q4", "revision": "main"});
    for (path, good) in
        [("/v1/chat/completions", chat), ("/v1/completions", completion), ("/api/models", register)]
    {
        let good = good.to_string();
        for case in 0..CASES {
            let body = mutated(good.as_bytes(), &mut Rng::new(case));
            let request = request("POST", path).header("content-type", "application/json");
            let (status, _, answer) = fixture.send(request.body(Body::from(body)).unwrap()).await;
            assert!(status.as_u16() < 500, "{path} {case}: {status} {}", String::from_utf8_lossy(&answer));
        }
    }
}

#[tokio::test]
async fn damaged_messages() {
    let fixture = fixture().await;
    // GetModel of "a".
    let good = [0, 0, 0, 0, 3, 0x0a, 1, b'a'];
    for kind in ["application/grpc", "application/grpc-web+proto", "application/grpc-web-text+proto"] {
        for case in 0..CASES {
            let body = mutated(&good, &mut Rng::new(case));
            let path = "/millm.catalog.v1.CatalogService/GetModel";
            let request = request("POST", path).version(Version::HTTP_2).header("content-type", kind);
            let (status, headers, _) = fixture.send(request.body(Body::from(body)).unwrap()).await;
            let code = headers.get("grpc-status").map(|code| code.to_str().unwrap().to_owned());
            assert!(
                status.as_u16() < 500 && code.as_deref() != Some("13"),
                "{kind} {case}: {status} {code:?}"
            );
        }
    }
}
