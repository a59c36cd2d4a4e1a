//! Loads that fail: with injected panics and memory errors, and with truncated files. Nothing is left of a failed load.

use std::sync::atomic::{AtomicUsize, Ordering};

use millm_engine::{Engine, EngineOptions, LoadProgress};
use millm_kit::{Reason, ServiceError};
use millm_model::Checkpoint;
use millm_proto::{
    catalog::v1::model::State,
    runtime::v1::{LoadModelRequest, LoadState},
};
use millm_sandbox::Sandbox;

use super::{
    fixture::{FakeCatalog, Fixture, check, collect, fixtures},
    question,
};
use crate::{
    error,
    read_model::{ReadModel, read_model},
    tokenizer_bundle::TokenizerBundle,
};

type ReadResult = Result<(TokenizerBundle, Engine), ServiceError>;

/// Fails with `fail` at the first call, while the weights are read.
fn once(
    times: &AtomicUsize,
    fail: fn() -> ReadResult,
    checkpoint: &Checkpoint,
    sandbox: &Sandbox,
    options: &EngineOptions,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> ReadResult {
    if times.fetch_add(1, Ordering::SeqCst) > 0 {
        return read_model(checkpoint, sandbox, options, progress);
    }
    // By then the load has allocated memory, which must be freed.
    let _begun = read_model(checkpoint, sandbox, options, &mut |step| {
        if step.fraction < 0.9 {
            progress(step);
        }
    })?;
    fail()
}

fn panicking(
    checkpoint: &Checkpoint,
    sandbox: &Sandbox,
    options: &EngineOptions,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> ReadResult {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    once(&TIMES, || panic!("injected"), checkpoint, sandbox, options, progress)
}

fn out_of_memory(
    checkpoint: &Checkpoint,
    sandbox: &Sandbox,
    options: &EngineOptions,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> ReadResult {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    let fail = || {
        let bytes = usize::MAX / 2;
        Err(error::from_load(millm_engine::Error::OutOfMemory { what: "weights", bytes }))
    };
    once(&TIMES, fail, checkpoint, sandbox, options, progress)
}

async fn fails_once(read: ReadModel, on_demand: bool, says: &str) {
    let flag = if on_demand { "true" } else { "false" };
    let flags = [("load_on_demand", flag), ("max_loaded_models", "2")];
    let fixture =
        Fixture::with_options(FakeCatalog::with_models(), &flags, |options| options.read_model = read).await;
    if on_demand {
        check(fixture.begin(question_to_tiny()).await, Reason::ModelLoadFailed, says);
    } else {
        let request = LoadModelRequest { model: "tiny".into(), ..LoadModelRequest::default() };
        let last = collect(fixture.begin_load(request).await.unwrap()).await.pop().unwrap();
        assert_eq!(last.state(), LoadState::Failed);
        check(Err::<(), _>(ServiceError::from_rpc(&last.error.unwrap())), Reason::ModelLoadFailed, says);
        check(fixture.begin(question_to_tiny()).await, Reason::ModelNotLoaded, "");
        fixture.load("tiny").await;
    }
    assert_eq!(fixture.generate(question_to_tiny()).await.text, "Hello! How can I help you?");
    fixture.load("tiny-q8").await;
    let status = fixture.wait(|_| true).await;
    assert!(status.models.len() == 2 && status.models.iter().all(|m| m.state() == LoadState::Loaded));
}

fn question_to_tiny() -> millm_proto::runtime::v1::GenerateRequest {
    millm_proto::runtime::v1::GenerateRequest { model: "tiny".into(), ..question("Hello!") }
}

#[tokio::test]
async fn a_panic_fails_the_load_and_the_next_one_works() {
    fails_once(panicking, false, "the loader panicked: injected").await;
}

#[tokio::test]
async fn out_of_memory_fails_the_load_and_the_next_one_works() {
    fails_once(out_of_memory, false, "Out of memory loading model.").await;
}

#[tokio::test]
async fn a_request_that_waits_for_a_load_gets_its_error() {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    fn once_more(
        checkpoint: &Checkpoint,
        sandbox: &Sandbox,
        options: &EngineOptions,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> ReadResult {
        once(&TIMES, || panic!("injected"), checkpoint, sandbox, options, progress)
    }
    fails_once(once_more, true, "the loader panicked: injected").await;
}

/// Truncates the weights after they are mapped and before they are read.
fn truncating(
    checkpoint: &Checkpoint,
    sandbox: &Sandbox,
    options: &EngineOptions,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> ReadResult {
    for file in checkpoint.files().iter().filter(|file| file.path.ends_with("model.safetensors")) {
        std::fs::File::options().write(true).open(&file.path).unwrap().set_len(5000).unwrap();
    }
    read_model(checkpoint, sandbox, options, progress)
}

fn copy_of_tiny() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join("tiny-millm")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

#[tokio::test]
async fn files_that_are_truncated_during_the_load_fail_it() {
    let folder = copy_of_tiny();
    let fixture =
        Fixture::with_options(FakeCatalog::with_models(), &[], |options| options.read_model = truncating)
            .await;
    fixture.catalog.put(41, "truncated", folder.path(), State::Ready);
    let request = LoadModelRequest { model: "truncated".into(), ..LoadModelRequest::default() };
    let last = collect(fixture.begin_load(request).await.unwrap()).await.pop().unwrap();
    let error = ServiceError::from_rpc(&last.error.unwrap());
    check(Err::<(), _>(error), Reason::InvalidModelFile, "became shorter while it was read");
    fixture.load("tiny-q8").await;
    assert_eq!(fixture.generate(question("Hello!")).await.text, "Hello! How can I help you?");
}

#[tokio::test]
async fn files_are_not_needed_after_the_load() {
    let folder = copy_of_tiny();
    let fixture = Fixture::start(&[]).await;
    fixture.catalog.put(42, "fleeting", folder.path(), State::Ready);
    fixture.load("fleeting").await;
    let weights = folder.path().join("model.safetensors");
    std::fs::File::options().write(true).open(&weights).unwrap().set_len(5000).unwrap();
    assert_eq!(fixture.generate(question("Hello!")).await.text, "Hello! How can I help you?");
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(fixture.generate(question("Hello!")).await.text, "Hello! How can I help you?");
    fixture.unload("fleeting", 0).await.unwrap();
    let request = LoadModelRequest { model: "fleeting".into(), ..LoadModelRequest::default() };
    check(fixture.begin_load(request).await, Reason::ModelLoadFailed, "Failed to load: ");
}
