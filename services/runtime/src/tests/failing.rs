//! Loads that panic or run out of memory, injected: the load fails with its reason, and nothing is left of it.

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
    bench::{Bench, Shelf, check, collect, fixtures},
    question,
};
use crate::{failure, language::Language, loader};

type Read = Result<(Language, Engine), ServiceError>;

/// Fails the first time as `fail` does, in the middle of the weights.
fn once(
    times: &AtomicUsize,
    fail: fn() -> Read,
    (checkpoint, sandbox, options): (&Checkpoint, &Sandbox, &EngineOptions),
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> Read {
    if times.fetch_add(1, Ordering::SeqCst) > 0 {
        return loader::read(checkpoint, sandbox, options, progress);
    }
    // Other things have their memory by then, which must come back.
    let _begun = loader::read(checkpoint, sandbox, options, &mut |step| {
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
    told: &mut dyn FnMut(LoadProgress<'_>),
) -> Read {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    once(&TIMES, || panic!("injected"), (checkpoint, sandbox, options), told)
}

fn starving(
    checkpoint: &Checkpoint,
    sandbox: &Sandbox,
    options: &EngineOptions,
    told: &mut dyn FnMut(LoadProgress<'_>),
) -> Read {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    let fail = || {
        let bytes = usize::MAX / 2;
        Err(failure::of_load(millm_engine::Error::OutOfMemory { what: "weights", bytes }))
    };
    once(&TIMES, fail, (checkpoint, sandbox, options), told)
}

async fn fails_once(read: loader::Read, on_demand: bool, says: &str) {
    let flag = if on_demand { "true" } else { "false" };
    let flags = [("load_on_demand", flag), ("max_loaded_models", "2")];
    let bench = Bench::reading(Shelf::stocked(), &flags, |ground| ground.read = read).await;
    if on_demand {
        check(bench.begin(question_to_tiny()).await, Reason::ModelLoadFailed, says);
    } else {
        let request = LoadModelRequest { model: "tiny".into(), ..LoadModelRequest::default() };
        let last = collect(bench.begin_load(request).await.unwrap()).await.pop().unwrap();
        assert_eq!(last.state(), LoadState::Failed);
        check(Err::<(), _>(ServiceError::from_rpc(&last.error.unwrap())), Reason::ModelLoadFailed, says);
        check(bench.begin(question_to_tiny()).await, Reason::ModelNotLoaded, "");
        bench.load("tiny").await;
    }
    assert_eq!(bench.generate(question_to_tiny()).await.text, "Hello! How can I help you?");
    bench.load("tiny-q8").await;
    let status = bench.wait(|_| true).await;
    assert!(status.models.len() == 2 && status.models.iter().all(|m| m.state() == LoadState::Loaded));
}

fn question_to_tiny() -> millm_proto::runtime::v1::GenerateRequest {
    millm_proto::runtime::v1::GenerateRequest { model: "tiny".into(), ..question("Hello!") }
}

#[tokio::test]
async fn a_panic_fails_the_load_and_the_next_one_works() {
    fails_once(panicking, false, "reading it panicked: injected").await;
}

#[tokio::test]
async fn memory_that_runs_out_fails_the_load_and_the_next_one_works() {
    fails_once(starving, false, "Out of memory loading model.").await;
}

#[tokio::test]
async fn who_waits_for_a_load_hears_why_it_failed() {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    fn once_more(
        checkpoint: &Checkpoint,
        sandbox: &Sandbox,
        options: &EngineOptions,
        told: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Read {
        once(&TIMES, || panic!("injected"), (checkpoint, sandbox, options), told)
    }
    fails_once(once_more, true, "reading it panicked: injected").await;
}

/// Empties the weights when they are mapped and about to be read.
fn robbed(
    checkpoint: &Checkpoint,
    sandbox: &Sandbox,
    options: &EngineOptions,
    told: &mut dyn FnMut(LoadProgress<'_>),
) -> Read {
    for file in checkpoint.files().iter().filter(|file| file.path.ends_with("model.safetensors")) {
        std::fs::File::options().write(true).open(&file.path).unwrap().set_len(5000).unwrap();
    }
    loader::read(checkpoint, sandbox, options, told)
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
async fn files_that_are_truncated_while_they_are_read_fail_the_load() {
    let folder = copy_of_tiny();
    let bench = Bench::reading(Shelf::stocked(), &[], |ground| ground.read = robbed).await;
    bench.shelf.put(41, "robbed", folder.path(), State::Ready);
    let request = LoadModelRequest { model: "robbed".into(), ..LoadModelRequest::default() };
    let last = collect(bench.begin_load(request).await.unwrap()).await.pop().unwrap();
    let error = ServiceError::from_rpc(&last.error.unwrap());
    check(Err::<(), _>(error), Reason::InvalidModelFile, "became shorter while it was read");
    bench.load("tiny-q8").await;
    assert_eq!(bench.generate(question("Hello!")).await.text, "Hello! How can I help you?");
}

#[tokio::test]
async fn files_that_are_gone_after_the_load_are_not_missed_until_the_next() {
    let folder = copy_of_tiny();
    let bench = Bench::start(&[]).await;
    bench.shelf.put(42, "fleeting", folder.path(), State::Ready);
    bench.load("fleeting").await;
    let weights = folder.path().join("model.safetensors");
    std::fs::File::options().write(true).open(&weights).unwrap().set_len(5000).unwrap();
    assert_eq!(bench.generate(question("Hello!")).await.text, "Hello! How can I help you?");
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(bench.generate(question("Hello!")).await.text, "Hello! How can I help you?");
    bench.unload("fleeting", 0).await.unwrap();
    let request = LoadModelRequest { model: "fleeting".into(), ..LoadModelRequest::default() };
    check(bench.begin_load(request).await, Reason::ModelLoadFailed, "Failed to load: ");
}
