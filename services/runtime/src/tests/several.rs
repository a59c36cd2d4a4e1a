//! More than one model in memory: who leaves, who waits, and what nobody uses any more.

use futures::future::join_all;
use millm_kit::Reason;
use millm_proto::{
    catalog::v1::model::State,
    runtime::v1::{GenerateRequest, LoadModelRequest, LoadState, RuntimeStatus, TokenizeRequest},
};

use super::{
    bench::{Bench, Shelf, check, finish, fixtures, gguf},
    endless, question,
};

const TWO: (&str, &str) = ("max_loaded_models", "2");
const ON_DEMAND: (&str, &str) = ("load_on_demand", "true");
/// Contexts so short that memory is never what decides.
const SMALL: [(&str, &str); 2] = [("parallel_requests", "2"), ("context_length", "512")];
const HELLO: &str = "Hello! How can I help you?";

/// `one`, `two` and `three`, each its own model.
async fn three(flags: &[(&str, &str)]) -> Bench {
    let shelf = Shelf::stocked();
    shelf.put(11, "one", fixtures().join("tiny-millm"), State::Ready);
    shelf.put(12, "two", gguf("Q8_0"), State::Ready);
    shelf.put(13, "three", fixtures().join("tiny-millm"), State::Ready);
    Bench::with(shelf, &[&SMALL, flags].concat()).await
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

async fn present(bench: &Bench) -> Vec<String> {
    loaded(&bench.wait(|_| true).await).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn of_three_models_with_room_for_two_the_least_recently_used_leaves() {
    let bench = three(&[TWO]).await;
    bench.load("one").await;
    bench.load("two").await;
    assert_eq!(present(&bench).await, ["one", "two"]);
    // Both answer, and the older one was used last.
    assert_eq!(bench.generate(to("two")).await.text, HELLO);
    assert_eq!(bench.generate(to("one")).await.text, HELLO);
    bench.load("three").await;
    assert_eq!(present(&bench).await, ["one", "three"]);
    check(bench.begin(to("two")).await, Reason::ModelNotLoaded, "'two'");
    // An empty name means the one used last, or loaded last.
    assert_eq!(bench.generate(to("")).await.messages[0].start.as_ref().unwrap().handle, "three");
    let shown = bench.wait(|_| true).await;
    assert!(shown.models.iter().all(|model| model.measured_memory_bytes > 0), "{shown:?}");
}

#[tokio::test]
async fn what_answers_stays_before_what_idles() {
    let bench = Bench::enduring(&[TWO]).await;
    let mut running = bench.begin(endless_to("tiny")).await.unwrap();
    running.message().await.unwrap();
    bench.load("tiny-q8").await;
    assert_eq!(bench.generate(to("tiny-q8")).await.text, HELLO);
    bench.shelf.put(31, "third", fixtures().join("tiny-millm"), State::Ready);
    bench.load("third").await;
    assert_eq!(present(&bench).await, ["tiny", "third"]);
    drop(running);
}

#[tokio::test]
async fn two_models_answer_at_once() {
    let bench = three(&[TWO]).await;
    bench.load("one").await;
    bench.load("two").await;
    let asked = ["one", "two", "one", "two"].map(|name| bench.generate(to(name)));
    for answer in join_all(asked).await {
        assert_eq!(answer.text, HELLO);
    }
}

#[tokio::test]
async fn many_requests_share_one_load() {
    let bench = three(&[ON_DEMAND]).await;
    let answers = join_all((0..12).map(|_| bench.generate(to("one")))).await;
    assert!(answers.iter().all(|answer| answer.text == HELLO));
    let status = bench.wait(|status| status.models[0].running_requests == 0).await;
    assert!(status.loads_on_demand);
    // One model, loaded once: its counters have all the requests.
    let generated: u64 = answers.iter().map(|answer| u64::from(answer.end.generated_tokens)).sum();
    assert_eq!((status.models.len(), status.models[0].generated_tokens), (1, generated), "{status:?}");
    let request = TokenizeRequest { model: "two".into(), text: "Hi".into(), add_special_tokens: false };
    assert!(!bench.client.clone().tokenize(request).await.unwrap().into_inner().token_ids.is_empty());
    assert_eq!(present(&bench).await, ["two"]);
}

#[tokio::test]
async fn models_take_turns_and_no_request_is_cancelled_for_another() {
    let bench = three(&[ON_DEMAND]).await;
    let mut running = bench.begin(endless_to("one")).await.unwrap();
    running.message().await.unwrap();
    let names = ["two", "three", "one", "two", "three", "one"];
    let (running, others) =
        futures::join!(finish_counting(running), join_all(names.map(|name| bench.generate(to(name)))));
    // To the end of the context, although five others wanted its place.
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
async fn a_request_waits_while_its_model_leaves() {
    let bench = Bench::enduring(&[ON_DEMAND, ("drain_timeout", "1000")]).await;
    let running = bench.begin(endless()).await.unwrap();
    let (unloaded, answer) = futures::join!(bench.unload("tiny", 1000), async {
        bench.wait(|status| status.models[0].state() == LoadState::Unloading).await;
        let (answer, ()) = futures::join!(bench.generate(to("tiny")), async { drop(running) });
        answer
    });
    assert_eq!(unloaded.unwrap().last().unwrap().state(), LoadState::Unloaded);
    assert_eq!(answer.text, HELLO);
}

#[tokio::test]
async fn an_unloading_without_end_can_be_hastened() {
    let bench = Bench::enduring(&[ON_DEMAND]).await;
    let running = bench.begin(endless()).await.unwrap();
    let (answer, hastened) = futures::join!(bench.generate(to("tiny-q8")), async {
        bench.wait(|status| status.models.iter().any(|m| m.state() == LoadState::Unloading)).await;
        bench.unload("tiny", 0).await
    });
    assert_eq!(hastened.unwrap().last().unwrap().state(), LoadState::Unloaded);
    assert_eq!(answer.text, HELLO);
    let end = finish(running).await.end;
    assert_eq!(end.finish_reason(), millm_proto::runtime::v1::FinishReason::Cancelled);
}

#[tokio::test]
async fn waiting_for_a_model_has_an_end_and_a_limit() {
    let flags = [ON_DEMAND, ("load_timeout", "500ms"), ("queue_size", "1")];
    let bench = Bench::enduring(&flags).await;
    let running = bench.begin(endless()).await.unwrap();
    bench.wait(|status| status.models[0].running_requests == 1).await;
    // One slot and one place to wait: two may wait for models.
    let asked = join_all((0..3).map(|_| bench.begin(to("tiny-q8")))).await;
    let reasons: Vec<Reason> = asked.into_iter().map(|asked| asked.unwrap_err().reason).collect();
    let count = |reason| reasons.iter().filter(|r| **r == reason).count();
    assert_eq!((count(Reason::ModelLoading), count(Reason::QueueFull)), (2, 1), "{reasons:?}");
    // The load goes on without them.
    drop(running);
    bench.wait(|status| loaded(status) == ["tiny-q8"]).await;
}

#[tokio::test]
async fn what_cannot_be_loaded_is_not_waited_for() {
    let bench = three(&[ON_DEMAND]).await;
    check(bench.begin(to("nobody")).await, Reason::ModelNotFound, "'nobody'");
    check(bench.begin(to("pending")).await, Reason::ModelNotReady, "'pending' is still downloading");
    check(bench.begin(to("")).await, Reason::ModelNotLoaded, "No model is loaded");
    for failed in join_all((0..4).map(|_| bench.begin(to("broken")))).await {
        check(failed, Reason::ModelLoadFailed, "Failed to load: ");
    }
    assert_eq!(bench.generate(to("one")).await.text, HELLO);
}

#[tokio::test]
async fn what_nobody_uses_is_unloaded() {
    let bench = three(&[TWO, ON_DEMAND, ("keep_alive", "0")]).await;
    // Loaded and not used yet: it stays for now.
    bench.load("one").await;
    assert_eq!(bench.generate(to("two")).await.text, HELLO);
    bench.wait(|status| loaded(status) == ["one"] && status.models.len() == 1).await;
    assert_eq!(bench.generate(to("one")).await.text, HELLO);
    bench.wait(|status| status.models.is_empty()).await;
    // It comes back for whoever asks.
    assert_eq!(bench.generate(to("one")).await.text, HELLO);
    bench.wait(|status| status.models.is_empty()).await;
}

#[tokio::test]
async fn an_answer_under_way_keeps_its_model() {
    let bench = three(&[("keep_alive", "0")]).await;
    bench.load("one").await;
    let running = bench.begin(endless_to("one")).await.unwrap();
    assert_eq!(bench.generate(to("one")).await.text, HELLO);
    assert_eq!(finish_counting(running).await, 512);
    bench.wait(|status| status.models.is_empty()).await;
    let request = LoadModelRequest { model: "one".into(), ..LoadModelRequest::default() };
    assert!(bench.begin_load(request).await.is_ok());
}
