//! Several models: load on demand, eviction of the least recently used model, and unloading of idle models.

use futures::future::join_all;
use millm_proto::catalog::v1::Quantization;
use serde_json::{Value, json};

use crate::harness::{Layout, Options, Server, fixture, in_both_layouts, model_hub, within};

in_both_layouts!(models_come_when_they_are_named, what_nobody_uses_leaves);

const QUESTION: &str = "What is the capital of Japan?";
const ANSWER: &str = "The capital of Japan is Tokyo.";

async fn loaded(server: &Server) -> Vec<String> {
    let status = server.runtime().get_status(millm_proto::runtime::v1::GetStatusRequest {}).await;
    let mut handles: Vec<String> =
        status.expect("a status").into_inner().models.into_iter().map(|model| model.handle).collect();
    handles.sort();
    handles
}

async fn models_come_when_they_are_named(layout: Layout) {
    let hub = model_hub();
    let options =
        Options::with_hub(hub.url()).set("MILLM_LOAD_ON_DEMAND", "true").set("MILLM_MAX_LOADED_MODELS", "2");
    let server = Server::start(layout, options).await;
    let pulled = server.pull("millm/tiny-millm", Quantization::Q4).await;
    server.add(&fixture("tiny-millm"), "own").await;
    server.add(&fixture("tiny-millm-gguf").join("tiny-Q8_0.gguf"), "file").await;
    let list = server.rest().get("/v1/models").await.json;
    let ids: Vec<&Value> =
        list["data"].as_array().expect("a list").iter().map(|model| &model["id"]).collect();
    assert_eq!(ids.len(), 3, "all that can be asked: {list}");

    // Several requests at once for a model that is not loaded yet.
    let first = join_all((0..4).map(|_| server.rest().chat(&pulled.handle, QUESTION)));
    assert_eq!(within("the first model", first).await, [ANSWER; 4]);
    assert_eq!(within("the second model", server.rest().chat("own", QUESTION)).await, ANSWER);
    assert_eq!(loaded(&server).await, ["own", "tiny-millm"]);
    // The first is used again, so the second is evicted for the third.
    assert_eq!(server.rest().chat(&pulled.handle, QUESTION).await, ANSWER);
    assert_eq!(within("the third model", server.rest().chat("file", QUESTION)).await, ANSWER);
    assert_eq!(loaded(&server).await, ["file", "tiny-millm"]);
    // Requests for three models at once, with room for two.
    let names = ["own", "file", "tiny-millm", "own"];
    let answers = join_all(names.map(|name| server.rest().chat(name, QUESTION)));
    assert_eq!(within("all three", answers).await, [ANSWER; 4]);

    let body = json!({ "model": "nobody", "messages": [{ "role": "user", "content": "Hello!" }] });
    assert_eq!(server.rest().post("/v1/chat/completions", &body).await.status, 404);
}

async fn what_nobody_uses_leaves(layout: Layout) {
    let options = Options::default().set("MILLM_KEEP_ALIVE", "100ms");
    let server = Server::start(layout, options).await;
    server.add(&fixture("tiny-millm"), "own").await;
    server.load("own").await;
    assert_eq!(server.rest().chat("own", QUESTION).await, ANSWER);
    server.unload_settled().await;
    let body = json!({ "model": "own", "messages": [{ "role": "user", "content": "Hello!" }] });
    let answer = server.rest().post("/v1/chat/completions", &body).await;
    assert_eq!((answer.status, answer.json["error"]["code"].as_str()), (503, Some("model_not_loaded")));
}
