//! The memory limits of a request. Each error names its field, the value found and the limit.

use std::{sync::atomic::Ordering, time::Duration};

use millm_proto::runtime::v1::{
    GenerateResponse, GenerateStart, LoadState, LoadedModel, RuntimeStatus, TokenLogprob,
};
use serde_json::{Value, json};

use super::fixture::Fixture;

const CHAT: &str = "/v1/chat/completions";
const PLAIN: &str = "/v1/completions";

fn body(path: &str, more: &Value) -> Value {
    let mut body = match path {
        CHAT => json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}),
        _ => json!({"model": "tiny", "prompt": "hi"}),
    };
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A generation of these messages that never ends.
async fn fixture(pieces: Vec<GenerateResponse>) -> Fixture {
    let fixture = Fixture::new().await;
    let start = GenerateStart { handle: "tiny".into(), ..GenerateStart::default() };
    let start = GenerateResponse { start: Some(start), ..GenerateResponse::default() };
    let said = std::iter::once(start).chain(pieces).map(Ok).collect();
    fixture.stage.generations.lock().unwrap().push(said);
    let loaded = LoadedModel {
        handle: "tiny".into(),
        state: LoadState::Loaded.into(),
        context_length: 2048,
        ..LoadedModel::default()
    };
    *fixture.stage.status.lock().unwrap() =
        RuntimeStatus { models: vec![loaded], ..RuntimeStatus::default() };
    fixture
}

async fn refused(fixture: &Fixture, path: &str, more: &Value, field: &str, said: &[&str]) {
    let (status, answer) = fixture.call("POST", path, body(path, more)).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{answer}");
    assert_eq!(answer["error"]["code"], "invalid_argument");
    let message = answer["error"]["message"].as_str().unwrap();
    for part in said {
        assert!(message.contains(part), "'{message}' does not say '{part}'");
    }
}

/// Until no generation runs.
async fn all_cancelled(fixture: &Fixture) {
    let all = async {
        while fixture.stage.running.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("they are cancelled");
}

#[tokio::test]
async fn an_answer_that_is_collected_is_bounded_and_cancelled() {
    let text = GenerateResponse { text: "x".repeat(1 << 20), ..GenerateResponse::default() };
    let texts = fixture(vec![text; 40]).await;
    let said = ["at least 68157440 bytes in its 2 choices", "the most allowed is 67108864", "streaming"];
    refused(&texts, CHAT, &json!({"n": 2}), "n", &said).await;
    refused(&texts, PLAIN, &json!({"n": 2}), "n", &said).await;
    all_cancelled(&texts).await;

    let top = vec![TokenLogprob { text: "x".into(), ..TokenLogprob::default() }; 1000];
    let token = TokenLogprob { text: "x".into(), logprob: Some(-1.0), top, ..TokenLogprob::default() };
    let scored = GenerateResponse { logprobs: vec![token; 10], ..GenerateResponse::default() };
    let scored = fixture(vec![scored; 100]).await;
    let said = ["in its 1 choices", "the most allowed is 67108864", "streaming ('stream': true)"];
    refused(&scored, CHAT, &json!({"logprobs": true}), "logprobs", &said).await;
    refused(&scored, CHAT, &json!({"logprobs": true, "top_logprobs": 2}), "top_logprobs", &said).await;
    refused(&scored, PLAIN, &json!({"logprobs": 2}), "logprobs", &said).await;
    all_cancelled(&scored).await;
}

#[tokio::test]
async fn what_is_surely_too_much_is_refused_before_it_runs() {
    let fixture = fixture(Vec::new()).await;
    let asked = json!({"n": 16, "max_tokens": 2048, "logprobs": true, "top_logprobs": 20});
    refused(&fixture, CHAT, &asked, "top_logprobs", &["in its 16 choices", "67108864"]).await;
    // The context ends it, whatever is asked for.
    let endless = json!({"n": 16, "max_tokens": 1_000_000_000, "logprobs": true, "top_logprobs": 20});
    refused(&fixture, CHAT, &endless, "top_logprobs", &["at least 82575360"]).await;
    let prompts = vec!["a"; 1000];
    let plain = json!({"prompt": prompts, "max_tokens": 1000, "logprobs": 5});
    refused(&fixture, PLAIN, &plain, "logprobs", &["in its 1000 choices"]).await;
    assert!(fixture.stage.asked.lock().unwrap().is_empty(), "nothing has run");
}

#[tokio::test]
async fn generations_of_one_request_are_bounded() {
    let fixture = fixture(Vec::new()).await;
    let many = json!({"prompt": vec!["a"; 1000], "n": 3});
    refused(&fixture, PLAIN, &many, "n", &["3 choices of each of 1000 prompts", "3000", "allowed is 2048"])
        .await;
    let prompts = json!({"prompt": vec!["a"; 2048], "n": 16});
    refused(&fixture, PLAIN, &prompts, "prompt", &["has 2048 prompts", "allowed are 1024"]).await;
    let text = "x".repeat(7 << 20);
    for (path, long) in [
        (CHAT, json!({"n": 16, "messages": [{"role": "user", "content": text}]})),
        (PLAIN, json!({"n": 16, "prompt": ["a", text]})),
    ] {
        refused(&fixture, path, &long, "n", &["16 choices of a prompt that is 73400", "33554432"]).await;
    }
    assert!(fixture.stage.asked.lock().unwrap().is_empty(), "nothing has run");
}
