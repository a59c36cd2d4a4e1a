//! Loading, replacing and unloading models, and shutdown.

use millm_kit::Reason;
use millm_proto::{
    catalog::v1::model::State,
    runtime::v1::{FinishReason, GenerateRequest, LoadModelRequest, LoadState, load_progress::Stage},
};

use super::{
    endless,
    fixture::{FakeCatalog, Fixture, check, collect, finish, fixtures},
    question,
};

#[tokio::test]
async fn progress_of_a_load_never_goes_back() {
    let fixture = Fixture::start(&[("context_length", "100000"), ("parallel_requests", "3")]).await;
    let progress = fixture.load("tiny").await;
    let stages: Vec<i32> = progress.iter().map(|progress| progress.stage).collect();
    assert!(stages.is_sorted() && progress.is_sorted_by_key(|progress| progress.fraction), "{progress:?}");
    let last = progress.last().unwrap();
    assert_eq!((last.stage(), last.fraction, last.model_id), (Stage::Done, 1.0, 1));
    let estimate = last.estimate.as_ref().unwrap();
    let parts = [
        estimate.weights_bytes,
        estimate.kv_cache_bytes,
        estimate.activations_bytes,
        estimate.overhead_bytes,
    ];
    assert!(parts.iter().all(|bytes| *bytes > 0) && parts.iter().sum::<i64>() == estimate.total_bytes);
    assert!(estimate.fits && estimate.warning.is_empty());

    let status = fixture.wait(|_| true).await;
    let model = &status.models[0];
    assert_eq!(
        (model.state(), model.handle.as_str(), model.device.as_str()),
        (LoadState::Loaded, "tiny", "cpu")
    );
    // Limited to the model's own context.
    assert_eq!((model.context_length, model.slots), (2048, 3));
}

#[tokio::test]
async fn dropping_the_progress_does_not_cancel_the_load() {
    let fixture = Fixture::start(&[]).await;
    let request = LoadModelRequest { model: "1".into(), context_length: 512, ..LoadModelRequest::default() };
    drop(fixture.begin_load(request).await.unwrap());
    let loaded = |state| state == LoadState::Loaded;
    let status = fixture.wait(|status| status.models.iter().any(|model| loaded(model.state()))).await;
    assert_eq!(status.models[0].context_length, 512);
}

#[tokio::test]
async fn the_previous_model_is_unloaded_after_its_requests() {
    let fixture = Fixture::long_running(&[]).await;
    let mut running = fixture.begin(endless()).await.unwrap();
    running.message().await.unwrap();
    let patient = prost_types::Duration { seconds: 1000, nanos: 0 };
    let request = LoadModelRequest {
        model: "tiny-q8".into(),
        drain_timeout: Some(patient),
        ..LoadModelRequest::default()
    };
    let mut loading = fixture.begin_load(request.clone()).await.unwrap();
    let first = loading.message().await.unwrap().unwrap();
    assert_eq!((first.stage(), first.state()), (Stage::UnloadingPrevious, LoadState::Loading));
    let unloading = |state| state == LoadState::Unloading;
    fixture.wait(|status| status.models.iter().any(|model| unloading(model.state()))).await;

    // Meanwhile no other model can be loaded, and neither of the two can be used.
    check(fixture.begin_load(request).await, Reason::ModelLoading, "'tiny-q8' is loading");
    let other = LoadModelRequest { model: "broken".into(), ..LoadModelRequest::default() };
    check(fixture.begin_load(other).await, Reason::ModelLoading, "'tiny-q8' is loading");
    let to = |model: &str| GenerateRequest { model: model.into(), ..question("Hello!") };
    check(fixture.begin(to("tiny-q8")).await, Reason::ModelLoading, "'tiny-q8' is loading");
    check(fixture.begin(to("tiny")).await, Reason::ModelNotLoaded, "'tiny' is not loaded");
    check(fixture.unload("tiny-q8", 0).await, Reason::ModelLoading, "");

    drop(running);
    let last = collect(loading).await.pop().unwrap();
    assert_eq!(last.state(), LoadState::Loaded, "{last:?}");
    let status = fixture.wait(|_| true).await;
    assert_eq!(status.models.iter().map(|model| model.model_id).collect::<Vec<_>>(), [2]);
    assert_eq!(fixture.generate(to("")).await.text, "Hello! How can I help you?");
}

#[tokio::test]
async fn unloading_waits_then_cancels() {
    let fixture = Fixture::long_running(&[]).await;
    let mut running = fixture.begin(endless()).await.unwrap();
    running.message().await.unwrap();
    let progress = fixture.unload("", 0).await.unwrap();
    assert_eq!(progress.last().unwrap().state(), LoadState::Unloaded);
    let mut end = None;
    while let Some(message) = running.message().await.unwrap() {
        end = message.end.or(end);
    }
    assert_eq!(end.unwrap().finish_reason(), FinishReason::Cancelled);
    assert!(fixture.wait(|_| true).await.models.is_empty());
    check(fixture.unload("", 0).await, Reason::ModelNotLoaded, "No model is loaded");

    // Requests that end in time are waited for.
    fixture.load("tiny").await;
    let answer = fixture.begin(question("Tell me a sad story about Leo.")).await.unwrap();
    let (progress, answer) = tokio::join!(fixture.unload("1", 1000), finish(answer));
    assert_eq!(answer.end.finish_reason(), FinishReason::Stop);
    let (first, last) = (&progress.as_ref().unwrap()[0], progress.as_ref().unwrap().last().unwrap());
    assert_eq!((first.state(), first.handle.as_str()), (LoadState::Unloading, "tiny"));
    assert_eq!((last.state(), last.pending_requests), (LoadState::Unloaded, 0));
}

#[tokio::test]
async fn a_model_that_is_unloading_can_be_loaded_again() {
    let fixture = Fixture::long_running(&[]).await;
    let running = fixture.begin(endless()).await.unwrap();
    let (unloaded, ()) = tokio::join!(fixture.unload("tiny", 1000), async {
        fixture.wait(|status| status.models[0].state() == LoadState::Unloading).await;
        let again = LoadModelRequest { model: "tiny".into(), ..LoadModelRequest::default() };
        let (again, ()) = tokio::join!(fixture.begin_load(again), async { drop(running) });
        assert_eq!(collect(again.unwrap()).await.pop().unwrap().state(), LoadState::Loaded);
    });
    assert_eq!(unloaded.unwrap().last().unwrap().state(), LoadState::Unloaded);
}

#[tokio::test]
async fn auto_load_waits_for_the_download() {
    let catalog = FakeCatalog::default();
    catalog.put(7, "late", fixtures().join("tiny-millm"), State::Pending);
    let fixture = Fixture::with(catalog.clone(), &[("auto_load_model", "late")]).await;
    let request = LoadModelRequest { model: "late".into(), ..LoadModelRequest::default() };
    check(fixture.begin_load(request).await, Reason::ModelNotReady, "'late' is still downloading");
    catalog.put(7, "late", fixtures().join("tiny-millm"), State::Ready);
    let loaded = |state| state == LoadState::Loaded;
    fixture.wait(|status| status.models.iter().any(|model| loaded(model.state()))).await;
}

#[tokio::test]
async fn shutdown_waits_for_requests_and_unloads() {
    let fixture = Fixture::loaded(&[]).await;
    let answer = fixture.begin(question("Tell me a sad story about Leo.")).await.unwrap();
    fixture.host.shutdown.stopping.cancel();
    assert_eq!(finish(answer).await.end.finish_reason(), FinishReason::Stop);
    fixture.host.tasks.close();
    fixture.host.tasks.wait().await;
    let request = LoadModelRequest { model: "tiny".into(), ..LoadModelRequest::default() };
    check(fixture.begin_load(request).await, Reason::ServiceUnavailable, "");
}

#[tokio::test]
async fn a_forced_shutdown_does_not_wait() {
    let fixture = Fixture::long_running(&[("drain_timeout", "1000")]).await;
    let answer = fixture.begin(endless()).await.unwrap();
    fixture.host.shutdown.stopping.cancel();
    fixture.host.shutdown.forced.cancel();
    assert_eq!(finish(answer).await.end.finish_reason(), FinishReason::Cancelled);
    fixture.host.tasks.close();
    fixture.host.tasks.wait().await;
}
