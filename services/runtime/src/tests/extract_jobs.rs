//! Jobs: cancelled, interrupted, resumed, waiting, removed and listed.

use millm_kit::{Reason, ServiceError};
use millm_proto::inspection::v1::{
    CancelExtractionRequest, DeleteExtractionRequest, Extraction, ExtractionConfig, ListExtractionsRequest,
    ResumeExtractionRequest, WatchExtractionsRequest, extraction::State,
};

use super::{
    datasets::{checksums, config},
    fixture::{Fixture, check},
};

/// Returns what a job of many small batches is asked for.
fn long() -> ExtractionConfig {
    config("long", &["residual"], |settings| settings.batch_size = 1)
}

/// Mounts a runtime with a dataset that takes a while.
async fn with_long_dataset() -> Fixture {
    let fixture = Fixture::loaded(&[]).await;
    let texts: Vec<String> =
        (0..600).map(|row| format!("Story {row}: Mia and Leo went out. ").repeat(1 + row % 3)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    fixture.datasets.put_texts(1, "long", &texts);
    fixture.datasets.put_texts(2, "short", &["Hello!"]);
    fixture
}

async fn begun(fixture: &Fixture) -> Extraction {
    let id = fixture.start_extraction(long()).await.unwrap().id;
    fixture.wait_job(&id, |shown| shown.samples_done >= 2).await
}

async fn cancel(fixture: &Fixture, id: &str) -> Result<Extraction, ServiceError> {
    let request = CancelExtractionRequest { name: id.into() };
    Ok(fixture.inspection.clone().cancel_extraction(request).await?.into_inner())
}

async fn resume(fixture: &Fixture, id: &str) -> Result<Extraction, ServiceError> {
    let request = ResumeExtractionRequest { name: id.into() };
    Ok(fixture.inspection.clone().resume_extraction(request).await?.into_inner())
}

async fn delete(fixture: &Fixture, id: &str) -> Result<(), ServiceError> {
    let request = DeleteExtractionRequest { name: id.into() };
    let _: () = fixture.inspection.clone().delete_extraction(request).await?.into_inner();
    Ok(())
}

async fn list(fixture: &Fixture, page_size: i32, page_token: &str) -> (Vec<String>, String) {
    let request = ListExtractionsRequest {
        page_size,
        page_token: page_token.into(),
        ..ListExtractionsRequest::default()
    };
    let page = fixture.inspection.clone().list_extractions(request).await.unwrap().into_inner();
    (page.extractions.into_iter().map(|shown| shown.id).collect(), page.next_page_token)
}

#[tokio::test]
async fn a_job_that_was_cancelled_unloaded_and_interrupted_ends_with_the_same_bytes() {
    let fixture = with_long_dataset().await;
    let expected = checksums(&fixture.extract(long()).await);

    let job = begun(&fixture).await;
    let cancelled = cancel(&fixture, &job.id).await.unwrap();
    assert_eq!((cancelled.state(), cancelled.files.len()), (State::Cancelled, 0));
    assert!(cancelled.samples_done < cancelled.samples_total && cancelled.end_time.is_some());
    assert_eq!(cancel(&fixture, &job.name).await.unwrap().state(), State::Cancelled, "again");

    // The model is unloaded in its middle.
    resume(&fixture, &job.id).await.unwrap();
    fixture.wait_job(&job.id, |shown| shown.samples_done > cancelled.samples_done).await;
    fixture.unload("tiny", 1000).await.unwrap();
    let failed = fixture.over(&job.id).await;
    assert_eq!(failed.state(), State::Failed);
    assert_eq!(ServiceError::from_rpc(&failed.error.unwrap()).reason, Reason::ModelNotLoaded);
    resume(&fixture, &job.id).await.unwrap();
    assert_eq!(fixture.over(&job.id).await.state(), State::Failed, "it is still not loaded");

    // The server stops in its middle.
    fixture.load("tiny").await;
    resume(&fixture, &job.id).await.unwrap();
    fixture.wait_job(&job.id, |shown| shown.samples_done > failed.samples_done).await;
    let fixture = fixture.restart().await;
    let interrupted = fixture.job(&job.id).await.unwrap();
    assert_eq!((interrupted.state(), interrupted.config), (State::Interrupted, job.config));
    fixture.load("tiny").await;
    let resumed = resume(&fixture, &job.id).await.unwrap();
    assert_eq!(resumed.state(), State::Queued);
    let shown = fixture.over(&job.id).await;
    assert_eq!((shown.state(), shown.samples_done), (State::Succeeded, 600), "{shown:?}");
    assert_eq!(checksums(&shown), expected);
    check(resume(&fixture, &job.id).await, Reason::InvalidArgument, "finished");
}

#[tokio::test]
async fn a_resumed_job_must_find_its_dataset_unchanged() {
    let fixture = with_long_dataset().await;
    let job = begun(&fixture).await;
    cancel(&fixture, &job.id).await.unwrap();
    fixture.datasets.change(1, |row| row.files[0].sha256 = "1".repeat(64));
    resume(&fixture, &job.id).await.unwrap();
    let error = ServiceError::from_rpc(&fixture.over(&job.id).await.error.unwrap());
    assert_eq!(error.reason, Reason::ExtractionFailed);
    assert!(error.message.contains("the dataset has changed"), "{error}");
}

#[tokio::test]
async fn jobs_of_a_model_wait_for_each_other() {
    let fixture = with_long_dataset().await;
    let first = begun(&fixture).await;
    let second = fixture.start_extraction(config("short", &["embed"], |_| {})).await.unwrap();
    let third = fixture.start_extraction(config("short", &["embed"], |_| {})).await.unwrap();
    assert_eq!(fixture.job(&second.id).await.unwrap().state(), State::Queued);
    // One that waits can be cancelled.
    assert_eq!(cancel(&fixture, &third.id).await.unwrap().state(), State::Cancelled);
    check(delete(&fixture, &second.id).await, Reason::ExtractionRunning, "cancel it first");
    check(resume(&fixture, &first.id).await, Reason::ExtractionRunning, "");
    cancel(&fixture, &first.id).await.unwrap();
    assert_eq!(fixture.over(&second.id).await.state(), State::Succeeded);
}

#[tokio::test]
async fn answers_go_on_while_a_job_runs() {
    let fixture = with_long_dataset().await;
    let job = begun(&fixture).await;
    let answer = fixture.generate(super::question("Hello!")).await;
    assert_eq!(answer.text, "Hello! How can I help you?");
    cancel(&fixture, &job.id).await.unwrap();
}

#[tokio::test]
async fn jobs_are_listed_watched_and_removed() {
    let fixture = with_long_dataset().await;
    let watch = fixture.inspection.clone().watch_extractions(WatchExtractionsRequest {}).await.unwrap();
    let mut changes = watch.into_inner();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(fixture.extract(config("short", &["embed"], |_| {})).await.id);
    }
    ids.reverse();
    assert_eq!(list(&fixture, 0, "").await, (ids.clone(), String::new()));
    let (page, token) = list(&fixture, 2, "").await;
    assert_eq!(
        (page, list(&fixture, 2, &token).await),
        (ids[..2].to_vec(), (ids[2..].to_vec(), String::new()))
    );
    // Every job's end is among the changes.
    let mut ended = Vec::new();
    while ended.len() < 3 {
        let shown = changes.message().await.unwrap().unwrap();
        if shown.state() == State::Succeeded && !ended.contains(&shown.id) {
            ended.push(shown.id);
        }
    }
    let request = ListExtractionsRequest { page_size: -1, ..ListExtractionsRequest::default() };
    let refused = fixture.inspection.clone().list_extractions(request).await;
    check(refused.map_err(ServiceError::from), Reason::InvalidArgument, "'page_size'");
    let request = ListExtractionsRequest { model: "tiny-q8".into(), ..ListExtractionsRequest::default() };
    let others = fixture.inspection.clone().list_extractions(request).await.unwrap().into_inner();
    assert!(others.extractions.is_empty());

    delete(&fixture, &ids[1]).await.unwrap();
    assert!(!fixture.activations.path().join(&ids[1]).exists());
    check(fixture.job(&ids[1]).await, Reason::ExtractionNotFound, &ids[1]);
    let fixture = fixture.restart().await;
    assert_eq!(list(&fixture, 0, "").await.0, [ids[0].clone(), ids[2].clone()]);
    assert_eq!(fixture.job(&ids[0]).await.unwrap().files.len(), 7);
}
