//! Streamed answers: OpenAI's events over REST, whole characters, and the end when the client disconnects.

use futures::StreamExt;
use millm_proto::catalog::v1::Quantization;
use millm_proto::runtime::v1::generate_request::Prompt;
use millm_proto::runtime::v1::{GenerateRequest, WatchStatusRequest};
use serde_json::{Value, json};

use crate::harness::{Layout, Options, Role, Server, in_both_layouts, model_hub, within};

in_both_layouts!(
    events_add_up_to_the_answer,
    stop_strings_and_lengths_end_it,
    a_reader_who_leaves_frees_the_slot,
    stopping_lets_streams_finish,
);

async fn loaded(layout: Layout) -> (fake_hub::RunningHub, Server, String) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let model = server.pull("millm/tiny-millm", Quantization::Q4).await;
    server.load(&model.handle).await;
    (hub, server, model.handle)
}

/// Returns the `data:` lines of a whole event stream.
async fn events(answer: reqwest::Response) -> Vec<String> {
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("text/event-stream"), "{kind}");
    let text = within("the stream", answer.text()).await.unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

async fn events_add_up_to_the_answer(layout: Layout) {
    let (_hub, server, model) = loaded(layout).await;
    let mut body = json!({
        "model": model,
        "temperature": 0,
        "stream": true,
        "stream_options": { "include_usage": true },
        "messages": [{ "role": "user", "content": "What is the capital of Japan?" }],
    });
    let mut lines = events(server.rest().open("/v1/chat/completions", &body).await).await;
    assert_eq!(lines.pop().as_deref(), Some("[DONE]"));
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "The capital of Japan is Tokyo.");
    let reasons: Vec<&str> =
        events.iter().filter_map(|e| e["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!(reasons, ["stop"]);
    let usage = &events.last().expect("events")["usage"];
    assert_eq!(usage["prompt_tokens"], 15);

    body["stream"] = json!(false);
    body.as_object_mut().unwrap().remove("stream_options");
    let whole = server.rest().post("/v1/chat/completions", &body).await;
    assert_eq!(whole.json["object"], "chat.completion");
    assert_eq!(whole.json["choices"][0]["message"]["content"], text);
    assert_eq!(whole.json["usage"], *usage);
    let models = server.rest().get("/v1/models").await.json;
    assert_eq!(models["data"][0]["id"], model);
}

async fn stop_strings_and_lengths_end_it(layout: Layout) {
    let (_hub, server, model) = loaded(layout).await;
    let ask = async |field: &str, value: Value| {
        let mut body = json!({
            "model": model,
            "temperature": 0,
            "messages": [{ "role": "user", "content": "What is the capital of Japan?" }],
        });
        body[field] = value;
        let answer = server.rest().post("/v1/chat/completions", &body).await.json["choices"][0].clone();
        let text = answer["message"]["content"].as_str().expect("a text").to_owned();
        (text, answer["finish_reason"].as_str().expect("a reason").to_owned())
    };
    assert_eq!(ask("stop", json!(" is")).await, ("The capital of Japan".to_owned(), "stop".to_owned()));
    assert_eq!(ask("stop", json!(["apan", "xyz"])).await.0, "The capital of J");
    let (text, reason) = ask("max_tokens", json!(3)).await;
    assert_eq!(reason, "length");
    assert!("The capital of Japan is Tokyo.".starts_with(&text) && !text.is_empty());
}

async fn a_reader_who_leaves_frees_the_slot(layout: Layout) {
    let (_hub, server, model) = loaded(layout).await;
    let mut status = server.runtime().watch_status(WatchStatusRequest {}).await.unwrap().into_inner();
    let mut running = async |wanted: u32| {
        within("the count of running requests", async {
            loop {
                let status = status.message().await.unwrap().expect("without end");
                if status.models.iter().map(|model| model.running_requests).sum::<u32>() == wanted {
                    return;
                }
            }
        })
        .await;
    };
    let endless = GenerateRequest {
        model: model.clone(),
        prompt: Some(Prompt::Text("Count".to_owned())),
        max_tokens: Some(1900),
        ignore_eos: true,
        ..GenerateRequest::default()
    };
    let mut stream = server.runtime().generate(endless).await.unwrap().into_inner();
    stream.message().await.unwrap().expect("a first message");
    running(1).await;
    drop(stream);
    running(0).await;

    let body =
        json!({ "model": model, "prompt": "Count", "max_tokens": 1900, "stream": true, "ignore_eos": true });
    let mut stream = server.rest().open("/v1/completions", &body).await.bytes_stream();
    stream.next().await.expect("a first event").unwrap();
    running(1).await;
    drop(stream);
    running(0).await;
}

async fn stopping_lets_streams_finish(layout: Layout) {
    let (_hub, mut server, model) = loaded(layout).await;
    let request = GenerateRequest {
        model,
        prompt: Some(Prompt::Text("Count".to_owned())),
        max_tokens: Some(600),
        ignore_eos: true,
        ..GenerateRequest::default()
    };
    let mut stream = server.runtime().generate(request).await.unwrap().into_inner();
    stream.message().await.unwrap().expect("a first message");
    server.begin_to_stop(Role::Runtime);
    let mut tokens = 0;
    let mut ended = false;
    while let Some(message) = within("the stream", stream.message()).await.expect("it is let finish") {
        tokens += message.token_ids.len();
        ended = message.end.is_some();
    }
    assert!(ended, "{tokens} tokens and no end");
    assert_eq!(server.ended(Role::Runtime).await, Some(0));
}
