//! More than one model: eviction, loading on demand, and idle unloading.

use futures::future::join_all;
use millm_kit::Reason;
use millm_proto::{
    catalog::v1::model::State,
    runtime::v1::{GenerateRequest, LoadModelRequest, LoadState, RuntimeStatus, TokenizeRequest},
};

use super::{
    endless,
    fixture::{FakeCatalog, Fixture, check, finish, fixtures, gguf},
    question,
};

const TWO: (&str, &str) = ("max_loaded_models", "2");
const ON_DEMAND: (&str, &str) = ("load_on_demand", "true");
/// Contexts so short that memory never decides about an eviction.
const SMALL: [(&str, &str); 2] = [("parallel_requests", "2"), ("context_length", "512")];
const HELLO: &str = "Hello! How can I help you?";

/// Mounts a runtime with the models `one`, `two` and `three`.
async fn three(flags: &[(&str, &str)]) -> Fixture {
    let catalog = FakeCatalog::with_models();
    catalog.put(11, "one", fixtures().join("tiny-millm"), State::Ready);
    catalog.put(12, "two", gguf("Q8_0"), State::Ready);
    catalog.put(13, "three", fixtures().join("tiny-millm"), State::Ready);
    Fixture::with(catalog, &[&SMALL, flags].concat()).await
}

fn to(model: &str) -> GenerateRequest {
    GenerateRequest { model: model.into(), ..question("Hello!") }
}

fn endless_to(model: &str) -> GenerateRequest {
    GenerateRequest { model: model.into(), ..endless() }
}

fn loaded(status: &RuntimeStatus) -> Vec<&str> {
    let loaded = status.models.iter().filter(|model| model.state() == LoadState::Loaded);
    loaded.map(|model| model.handle.as_str()).collect()
}

async fn present(fixture: &Fixture) -> Vec<String> {
    loaded(&fixture.wait(|_| true).await).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_least_recently_used_of_three_models_is_evicted() {
    let fixture = three(&[TWO]).await;
    fixture.load("one").await;
    fixture.load("two").await;
    assert_eq!(present(&fixture).await, ["one", "two"]);
    // The older model was used last.
    assert_eq!(fixture.generate(to("two")).await.text, HELLO);
    assert_eq!(fixture.generate(to("one")).await.text, HELLO);
    fixture.load("three").await;
    assert_eq!(present(&fixture).await, ["one", "three"]);
    check(fixture.begin(to("two")).await, Reason::ModelNotLoaded, "'two'");
    // An empty name means the model that was used or loaded last.
    assert_eq!(fixture.generate(to("")).await.messages[0].start.as_ref().unwrap().handle, "three");
    let shown = fixture.wait(|_| true).await;
    assert!(shown.models.iter().all(|model| model.measured_memory_bytes > 0), "{shown:?}");
}

#[tokio::test]
async fn an_idle_model_is_evicted_before_a_model_in_use() {
    let fixture = Fixture::long_running(&[TWO]).await;
    let mut running = fixture.begin(endless_to("tiny")).await.unwrap();
    running.message().await.unwrap();
    fixture.load("tiny-q8").await;
    assert_eq!(fixture.generate(to("tiny-q8")).await.text, HELLO);
    fixture.catalog.put(31, "third", fixtures().join("tiny-millm"), State::Ready);
    fixture.load("third").await;
    assert_eq!(present(&fixture).await, ["tiny", "third"]);
    drop(running);
}

#[tokio::test]
async fn two_models_generate_at_the_same_time() {
    let fixture = three(&[TWO]).await;
    fixture.load("one").await;
    fixture.load("two").await;
    let asked = ["one", "two", "one", "two"].map(|name| fixture.generate(to(name)));
    for answer in join_all(asked).await {
        assert_eq!(answer.text, HELLO);
    }
}

#[tokio::test]
async fn many_requests_share_one_load() {
    let fixture = three(&[ON_DEMAND]).await;
    let answers = join_all((0..12).map(|_| fixture.generate(to("one")))).await;
    assert!(answers.iter().all(|answer| answer.text == HELLO));
    let status = fixture.wait(|status| status.models[0].running_requests == 0).await;
    assert!(status.loads_on_demand);
    // The model was loaded once, so its counters include all requests.
    let generated: u64 = answers.iter().map(|answer| u64::from(answer.end.generated_tokens)).sum();
    assert_eq!((status.models.len(), status.models[0].generated_tokens), (1, generated), "{status:?}");
    let request = TokenizeRequest { model: "two".into(), text: "Hi".into(), add_special_tokens: false };
    assert!(!fixture.client.clone().tokenize(request).await.unwrap().into_inner().token_ids.is_empty());
    assert_eq!(present(&fixture).await, ["two"]);
}

#[tokio::test]
async fn models_take_turns_and_no_request_is_cancelled() {
    let fixture = three(&[ON_DEMAND]).await;
    let mut running = fixture.begin(endless_to("one")).await.unwrap();
    running.message().await.unwrap();
    let names = ["two", "three", "one", "two", "three", "one"];
    let (running, others) =
        futures::join!(finish_counting(running), join_all(names.map(|name| fixture.generate(to(name)))));
    // The running request continues to the end of the context, although other models wait.
    assert_eq!(running, 512);
    assert!(others.iter().all(|answer| answer.text == HELLO));
    for (name, answer) in names.iter().zip(&others) {
        assert_eq!(answer.messages[0].start.as_ref().unwrap().handle, *name);
    }
}

async fn finish_counting(mut stream: tonic::Streaming<millm_proto::runtime::v1::GenerateResponse>) -> u32 {
    let mut tokens = 0;
    while let Some(message) = stream.message().await.unwrap() {
        if let Some(end) = message.end {
            tokens = end.prompt_tokens + end.generated_tokens;
        }
    }
    tokens
}

#[tokio::test]
async fn a_request_waits_while_its_model_unloads() {
    let fixture = Fixture::long_running(&[ON_DEMAND, ("drain_timeout", "1000")]).await;
    let running = fixture.begin(endless()).await.unwrap();
    let (unloaded, answer) = futures::join!(fixture.unload("tiny", 1000), async {
        fixture.wait(|status| status.models[0].state() == LoadState::Unloading).await;
        let (answer, ()) = futures::join!(fixture.generate(to("tiny")), async { drop(running) });
        answer
    });
    assert_eq!(unloaded.unwrap().last().unwrap().state(), LoadState::Unloaded);
    assert_eq!(answer.text, HELLO);
}

#[tokio::test]
async fn an_unload_without_a_time_limit_can_be_shortened() {
    let fixture = Fixture::long_running(&[ON_DEMAND]).await;
    let running = fixture.begin(endless()).await.unwrap();
    let (answer, hastened) = futures::join!(fixture.generate(to("tiny-q8")), async {
        fixture.wait(|status| status.models.iter().any(|m| m.state() == LoadState::Unloading)).await;
        fixture.unload("tiny", 0).await
    });
    assert_eq!(hastened.unwrap().last().unwrap().state(), LoadState::Unloaded);
    assert_eq!(answer.text, HELLO);
    let end = finish(running).await.end;
    assert_eq!(end.finish_reason(), millm_proto::runtime::v1::FinishReason::Cancelled);
}

#[tokio::test]
async fn waiting_for_a_model_is_limited_in_time_and_number() {
    let flags = [ON_DEMAND, ("load_timeout", "500ms"), ("queue_size", "1")];
    let fixture = Fixture::long_running(&flags).await;
    let running = fixture.begin(endless()).await.unwrap();
    fixture.wait(|status| status.models[0].running_requests == 1).await;
    // One slot and one place in the queue: two requests may wait for models.
    let asked = join_all((0..3).map(|_| fixture.begin(to("tiny-q8")))).await;
    let reasons: Vec<Reason> = asked.into_iter().map(|asked| asked.unwrap_err().reason).collect();
    let count = |reason| reasons.iter().filter(|r| **r == reason).count();
    assert_eq!((count(Reason::ModelLoading), count(Reason::QueueFull)), (2, 1), "{reasons:?}");
    // The load continues without the requests.
    drop(running);
    fixture.wait(|status| loaded(status) == ["tiny-q8"]).await;
}

#[tokio::test]
async fn requests_do_not_wait_for_models_that_cannot_be_loaded() {
    let fixture = three(&[ON_DEMAND]).await;
    check(fixture.begin(to("nobody")).await, Reason::ModelNotFound, "'nobody'");
    check(fixture.begin(to("pending")).await, Reason::ModelNotReady, "'pending' is still downloading");
    check(fixture.begin(to("")).await, Reason::ModelNotLoaded, "No model is loaded");
    for failed in join_all((0..4).map(|_| fixture.begin(to("broken")))).await {
        check(failed, Reason::ModelLoadFailed, "Failed to load: ");
    }
    assert_eq!(fixture.generate(to("one")).await.text, HELLO);
}

#[tokio::test]
async fn idle_models_are_unloaded() {
    let fixture = three(&[TWO, ON_DEMAND, ("keep_alive", "0")]).await;
    // A model stays loaded for some time before its first use.
    fixture.load("one").await;
    assert_eq!(fixture.generate(to("two")).await.text, HELLO);
    fixture.wait(|status| loaded(status) == ["one"] && status.models.len() == 1).await;
    assert_eq!(fixture.generate(to("one")).await.text, HELLO);
    fixture.wait(|status| status.models.is_empty()).await;
    // The next request loads it again.
    assert_eq!(fixture.generate(to("one")).await.text, HELLO);
    fixture.wait(|status| status.models.is_empty()).await;
}

#[tokio::test]
async fn a_model_in_use_is_not_idle() {
    let fixture = three(&[("keep_alive", "0")]).await;
    fixture.load("one").await;
    let running = fixture.begin(endless_to("one")).await.unwrap();
    assert_eq!(fixture.generate(to("one")).await.text, HELLO);
    assert_eq!(finish_counting(running).await, 512);
    fixture.wait(|status| status.models.is_empty()).await;
    let request = LoadModelRequest { model: "one".into(), ..LoadModelRequest::default() };
    assert!(fixture.begin_load(request).await.is_ok());
}
