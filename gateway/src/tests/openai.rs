//! `/v1` as the official clients know it.

use std::{sync::atomic::Ordering, time::Duration};

use axum::body::Body;
use http_body_util::BodyExt as _;
use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::{Model, model::State},
    runtime::v1::{
        FinishReason, GenerateEnd, GenerateResponse, GenerateStart, LoadState, LoadedModel, RuntimeStatus,
        TokenLogprob, generate_request::Prompt,
    },
};
use serde_json::{Value, json};
use tonic::Status;
use tower::ServiceExt as _;

use super::fixture::{Fixture, request, without_id};

type Said = Vec<Result<GenerateResponse, Status>>;

fn token(text: &str, logprob: Option<f32>) -> TokenLogprob {
    let other = TokenLogprob { text: "other".into(), logprob: Some(-5.0), ..TokenLogprob::default() };
    TokenLogprob { text: text.into(), raw: text.as_bytes().to_vec(), logprob, top: vec![other], token_id: 1 }
}

/// "Hello wörld": two tokens, of a prompt of three.
fn hello(reason: FinishReason) -> Said {
    let start = GenerateStart {
        handle: "tiny".into(),
        prompt_tokens: 3,
        prompt_logprobs: vec![token("a", None), token("b", Some(-1.0))],
        ..GenerateStart::default()
    };
    let text = |text: &str| GenerateResponse {
        text: text.into(),
        logprobs: vec![token(text, Some(-0.5))],
        ..GenerateResponse::default()
    };
    let end = GenerateEnd {
        finish_reason: reason.into(),
        prompt_tokens: 3,
        generated_tokens: 2,
        ..GenerateEnd::default()
    };
    vec![
        Ok(GenerateResponse { start: Some(start), ..GenerateResponse::default() }),
        Ok(text("Hello")),
        Ok(GenerateResponse { end: Some(end), ..text(" wörld") }),
    ]
}

async fn fixture(said: Said) -> Fixture {
    let fixture = Fixture::new().await;
    fixture.stage.generations.lock().unwrap().push(said);
    fixture
}

fn chat(more: Value) -> Value {
    merged(json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}), more)
}

fn completion(more: Value) -> Value {
    merged(json!({"model": "tiny", "prompt": "ab"}), more)
}

fn merged(mut base: Value, more: Value) -> Value {
    base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    base
}

/// Checks the form of values that differ from call to call, and removes them.
fn settled(mut value: Value, id: &str) -> Value {
    assert!(value["id"].as_str().unwrap().starts_with(id), "{value}");
    assert!(value["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(value["system_fingerprint"], concat!("millm-", env!("CARGO_PKG_VERSION")));
    for key in ["id", "created", "system_fingerprint"] {
        value.as_object_mut().unwrap().shift_remove(key);
    }
    value
}

#[tokio::test]
async fn a_chat_completion() {
    let fixture = fixture(hello(FinishReason::Stop)).await;
    let body =
        chat(json!({"max_tokens": 5, "temperature": 0, "logprobs": true, "top_logprobs": 1, "stop": "x"}));
    let (status, answer) = fixture.call("POST", "/v1/chat/completions", body).await;
    assert_eq!(status, 200, "{answer}");
    let entry = |text: &str| {
        json!({"token": text, "logprob": -0.5, "bytes": text.as_bytes(),
            "top_logprobs": [{"token": "other", "logprob": -5.0, "bytes": []}]})
    };
    assert_eq!(
        settled(answer, "chatcmpl-"),
        json!({
            "object": "chat.completion", "model": "tiny",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "Hello wörld", "refusal": null},
                "logprobs": {"content": [entry("Hello"), entry(" wörld")], "refusal": null},
                "finish_reason": "stop",
            }],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 0}},
        })
    );
    let asked = fixture.stage.asked.lock().unwrap().remove(0);
    assert_eq!((asked.model.as_str(), asked.max_tokens, asked.logprobs), ("tiny", Some(5), Some(1)));
    assert_eq!((asked.stop, asked.sampling.unwrap().temperature), (vec!["x".to_owned()], Some(0.0)));
    let Some(Prompt::Messages(messages)) = asked.prompt else { panic!("no messages") };
    assert_eq!((messages.messages[0].role.as_str(), messages.messages[0].content.as_str()), ("user", "hi"));
}

#[tokio::test]
async fn a_chat_stream_has_the_events_in_their_order() {
    let fixture = fixture(hello(FinishReason::Length)).await;
    let body = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let mut events = fixture.stream("/v1/chat/completions", body).await;
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events.iter().map(|e| settled(serde_json::from_str(e).unwrap(), "chatcmpl-")).collect();
    let chunk = |delta: Value, reason: Option<&str>| {
        json!({"object": "chat.completion.chunk", "model": "tiny", "usage": null,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]})
    };
    let expected = [
        chunk(json!({"role": "assistant", "content": "", "refusal": null}), None),
        chunk(json!({"content": "Hello"}), None),
        chunk(json!({"content": " wörld"}), None),
        chunk(json!({}), Some("length")),
        json!({"object": "chat.completion.chunk", "model": "tiny", "choices": [],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 0}}}),
    ];
    assert_eq!(chunks, expected);
}

#[tokio::test]
async fn several_choices() {
    let fixture = fixture(hello(FinishReason::Stop)).await;
    let (status, answer) =
        fixture.call("POST", "/v1/chat/completions", chat(json!({"n": 3, "seed": 5}))).await;
    assert_eq!(status, 200);
    assert_eq!(answer["choices"].as_array().unwrap().len(), 3);
    assert_eq!(answer["choices"][2]["index"], 2);
    assert_eq!(
        (&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]),
        (&json!(3), &json!(6))
    );
    let asked = fixture.stage.asked.lock().unwrap();
    let mut seeds: Vec<_> = asked.iter().map(|asked| asked.sampling.as_ref().unwrap().seed).collect();
    seeds.sort();
    assert_eq!(seeds, [Some(5), Some(6), Some(7)]);
}

#[tokio::test]
async fn tool_calls() {
    let call = "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}</tool_call>";
    let mut said = hello(FinishReason::Stop);
    for (n, text) in [(1, &call[..7]), (2, &call[7..])] {
        said[n].as_mut().unwrap().text = text.to_owned();
    }
    let fixture = fixture(said).await;
    let tools = json!({"tools": [{"type": "function", "function": {"name": "weather"}}]});
    let (_, answer) = fixture.call("POST", "/v1/chat/completions", chat(tools.clone())).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let called = &choice["message"]["tool_calls"][0];
    assert_eq!(called["function"], json!({"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}));
    let streamed = fixture.stream("/v1/chat/completions", merged(chat(tools), json!({"stream": true}))).await;
    assert!(!streamed.concat().contains("<tool_call"), "{streamed:?}");
    assert!(streamed[1].contains(r#""tool_calls":[{"id":"call_"#) && streamed[1].contains(r#""index":0"#));
    assert!(streamed[2].contains(r#""finish_reason":"tool_calls""#));
    let Some(Prompt::Messages(messages)) = fixture.stage.asked.lock().unwrap().remove(0).prompt else {
        panic!()
    };
    assert!(messages.tools_json.contains("weather"));
}

#[tokio::test]
async fn a_plain_completion_scores_its_prompt() {
    let fixture = fixture(hello(FinishReason::Length)).await;
    let body = completion(json!({"echo": true, "logprobs": 1, "max_tokens": 2}));
    let (status, answer) = fixture.call("POST", "/v1/completions", body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        settled(answer, "cmpl-"),
        json!({
            "object": "text_completion", "model": "tiny",
            "choices": [{
                "text": "abHello wörld", "index": 0,
                "logprobs": {
                    "tokens": ["a", "b", "Hello", " wörld"],
                    "token_logprobs": [null, -1.0, -0.5, -0.5],
                    "top_logprobs": [null, {"other": -5.0, "b": -1.0}, {"other": -5.0, "Hello": -0.5},
                        {"other": -5.0, " wörld": -0.5}],
                    "text_offset": [0, 1, 2, 7],
                },
                "finish_reason": "length",
            }],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 0}},
        })
    );
    assert!(fixture.stage.asked.lock().unwrap()[0].prompt_logprobs);
    let none = completion(json!({"echo": true, "max_tokens": 0, "logprobs": 0}));
    assert_eq!(fixture.call("POST", "/v1/completions", none).await.0, 200);
    assert_eq!(fixture.stage.asked.lock().unwrap()[1].max_tokens, Some(0));
}

#[tokio::test]
async fn plain_completions_of_many_prompts() {
    let fixture = fixture(hello(FinishReason::Stop)).await;
    let body = completion(json!({"prompt": [[1, 2], [3]], "n": 2, "echo": true}));
    let (_, answer) = fixture.call("POST", "/v1/completions", body).await;
    let texts: Vec<_> =
        answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["<1><2>Hello wörld", "<1><2>Hello wörld", "<3>Hello wörld", "<3>Hello wörld"]);
    assert_eq!(answer["usage"]["prompt_tokens"], 6);
    assert_eq!(fixture.stage.asked.lock().unwrap()[0].max_tokens, Some(16));
}

#[tokio::test]
async fn a_plain_stream() {
    let fixture = fixture(hello(FinishReason::Stop)).await;
    let body = completion(json!({"stream": true, "echo": true, "logprobs": 0}));
    let mut events = fixture.stream("/v1/completions", body).await;
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events.iter().map(|e| settled(serde_json::from_str(e).unwrap(), "cmpl-")).collect();
    let choices: Vec<_> = chunks.iter().map(|c| &c["choices"][0]).collect();
    let texts: String = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, "abHello wörld");
    let offsets: Vec<_> = choices.iter().map(|c| c["logprobs"]["text_offset"].clone()).collect();
    assert_eq!(offsets, [json!([0, 1]), json!([2]), json!([7])]);
    assert_eq!(choices[2]["finish_reason"], "stop");
    assert_eq!(choices[0]["finish_reason"], Value::Null);
}

#[tokio::test]
async fn models_are_those_that_are_loaded() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.get("/v1/models").await, (200, json!({"object": "list", "data": []})));
    let model = |handle: &str, state: LoadState| LoadedModel {
        handle: handle.into(),
        state: state.into(),
        load_time: Some(prost_types::Timestamp { seconds: 1_706_627_200, nanos: 0 }),
        ..LoadedModel::default()
    };
    fixture.stage.status.lock().unwrap().models =
        vec![model("in", LoadState::Loaded), model("coming", LoadState::Loading)];
    let expected = json!({"id": "in", "object": "model", "created": 1_706_627_200, "owned_by": "miLLM"});
    assert_eq!(fixture.get("/v1/models").await.1["data"], json!([expected]));
    assert_eq!(fixture.get("/v1/models/in").await, (200, expected));
    let (status, answer) = fixture.get("/v1/models/coming").await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn models_that_would_be_loaded_are_listed_too() {
    let fixture = Fixture::new().await;
    let row = |id, handle: &str, state: State| Model {
        id,
        handle: handle.into(),
        state: state.into(),
        ..Model::default()
    };
    *fixture.stage.models.lock().unwrap() =
        vec![row(1, "in", State::Ready), row(2, "ready", State::Ready), row(3, "late", State::Pending)];
    let loaded = LoadedModel {
        model_id: 1,
        handle: "in".into(),
        state: LoadState::Loaded.into(),
        ..LoadedModel::default()
    };
    *fixture.stage.status.lock().unwrap() =
        RuntimeStatus { models: vec![loaded], loads_on_demand: true, ..RuntimeStatus::default() };
    let list = fixture.get("/v1/models").await.1;
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!(ids, [json!("in"), json!("ready")]);
    assert_eq!(fixture.get("/v1/models/ready").await.0, 200);
    assert_eq!(fixture.get("/v1/models/late").await.0, 404);
}

#[tokio::test]
async fn errors_have_openais_body() {
    let fixture = fixture(hello(FinishReason::Stop)).await;
    let refuse = |error: ServiceError| *fixture.stage.refusal.lock().unwrap() = Some(error);
    for (error, status, kind, code) in [
        (ServiceError::model_not_found("tiny"), 404, "invalid_request_error", "model_not_found"),
        (ServiceError::not_loaded("tiny"), 503, "server_error", "model_not_loaded"),
        (ServiceError::loading("tiny"), 503, "server_error", "model_loading"),
        (ServiceError::queue_full(64), 429, "rate_limit_error", "queue_full"),
        (
            ServiceError::context_length_exceeded(9, 5),
            400,
            "invalid_request_error",
            "context_length_exceeded",
        ),
    ] {
        let message = error.message.clone();
        let unloaded = (error.reason == Reason::ModelNotLoaded).then_some(Duration::from_secs(2));
        let retry = error.retry_after.or(unloaded).map(|after| after.as_secs().to_string());
        refuse(error);
        for stream in [false, true] {
            let request = request("POST", "/v1/chat/completions").header("content-type", "application/json");
            let body = Body::from(chat(json!({"stream": stream})).to_string());
            let (got, headers, bytes) = fixture.send(request.body(body).unwrap()).await;
            assert_eq!(got.as_u16(), status);
            let answer: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(
                without_id(answer),
                json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
            );
            assert_eq!(headers.get("retry-after").map(|v| v.to_str().unwrap().to_owned()), retry);
        }
    }
}

#[tokio::test]
async fn bad_requests_name_their_field() {
    let fixture = fixture(hello(FinishReason::Stop)).await;
    for (path, body, field) in [
        ("/v1/chat/completions", json!({"messages": []}), "model"),
        ("/v1/chat/completions", json!({"model": "m"}), "messages"),
        ("/v1/chat/completions", chat(json!({"max_tokens": 0})), "max_tokens"),
        ("/v1/chat/completions", chat(json!({"max_completion_tokens": -1})), "max_completion_tokens"),
        ("/v1/chat/completions", chat(json!({"top_logprobs": 2})), "top_logprobs"),
        ("/v1/chat/completions", chat(json!({"logprobs": true, "top_logprobs": 21})), "top_logprobs"),
        ("/v1/chat/completions", chat(json!({"chat_template": "{{ x }}"})), "chat_template"),
        ("/v1/chat/completions", chat(json!({"response_format": {"type": "xml"}})), "response_format"),
        ("/v1/chat/completions", chat(json!({"functions": []})), "functions"),
        ("/v1/completions", json!({"model": "m"}), "prompt"),
        ("/v1/completions", completion(json!({"suffix": "x"})), "suffix"),
        ("/v1/completions", completion(json!({"best_of": 2})), "best_of"),
        ("/v1/completions", completion(json!({"max_tokens": 0})), "max_tokens"),
        ("/v1/completions", completion(json!({"logprobs": true})), "logprobs"),
    ] {
        let (status, answer) = fixture.call("POST", path, body.clone()).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{body}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
    assert!(fixture.stage.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_no_json_is_told_so() {
    let fixture = Fixture::new().await;
    let send = async |kind: &str, body: Body| {
        let request = request("POST", "/v1/chat/completions").header("content-type", kind);
        let (status, _, bytes) = fixture.send(request.body(body).unwrap()).await;
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        (status.as_u16(), answer["error"]["message"].as_str().unwrap().to_owned())
    };
    let (status, message) = send("application/json; charset=utf-8", Body::from("{\"model\": }")).await;
    assert!(status == 400 && message.contains("line 1 column 11"), "{message}");
    assert_eq!(send("text/plain", Body::from("{}")).await.0, 415);
    assert_eq!(send("application/json", Body::from(vec![b' '; (8 << 20) + 1])).await.0, 413);
    let (status, answer) = fixture.get("/v1/chat/completions").await;
    assert_eq!((status, answer["error"]["type"].as_str()), (405, Some("invalid_request_error")));
    let (status, answer) = fixture.get("/v1/nothing").await;
    assert_eq!((status, answer["error"]["code"].as_str()), (404, Some("not_found")));
}

#[tokio::test]
async fn an_error_in_mid_stream_is_the_last_event() {
    let mut said = hello(FinishReason::Stop);
    said.truncate(2);
    said.push(Err(ServiceError::load_failed("the engine died").into()));
    let fixture = fixture(said).await;
    let events = fixture.stream("/v1/chat/completions", chat(json!({"stream": true}))).await;
    assert_eq!(events.len(), 3);
    assert!(events[2].starts_with(r#"{"error":{"message":"Failed to load"#), "{}", events[2]);
    let (status, _) = fixture.call("POST", "/v1/chat/completions", chat(json!({}))).await;
    assert_eq!(status, 500);
    fixture.stage.generations.lock().unwrap()[0] = hello(FinishReason::Cancelled);
    let (status, _) = fixture.call("POST", "/v1/chat/completions", chat(json!({}))).await;
    assert_eq!(status, 503);
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_generations() {
    let mut said = hello(FinishReason::Stop);
    said.truncate(2);
    let fixture = fixture(said).await;
    let body = Body::from(chat(json!({"stream": true, "n": 2})).to_string());
    let request = request("POST", "/v1/chat/completions").header("content-type", "application/json");
    let response = fixture.routes.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let mut body = response.into_body();
    while fixture.stage.running.load(Ordering::SeqCst) < 2 {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    assert_eq!(fixture.stage.running.load(Ordering::SeqCst), 0);
}
