//! Two servers, each with a catalog of its own, on one models folder.

use std::{fs, path::PathBuf};

use fake_hub::{Host, LogEntry};
use millm_kit::Reason;
use millm_proto::{catalog::v1::Quantization, downloader::v1::download::State};

use super::{
    fixture::{Fixture, pull, synthetic},
    memory_catalog::MemoryCatalog,
};

/// A second server's fixture, with the first one's hub and models folder.
fn beside(fixture: &Fixture) -> Fixture {
    let mut other = Fixture::new([]);
    other.catalog = MemoryCatalog::named("fedcba9876543210");
    other.settings.push(("HF_ENDPOINT", fixture.hub.url().to_owned()));
    other.settings.push(("MODEL_CACHE_DIR", fixture.models().display().to_string()));
    other
}

fn first() -> Fixture {
    let mut fixture = Fixture::new([synthetic("o/n")]);
    fixture.catalog = MemoryCatalog::named("0123456789abcdef");
    fixture
}

/// Returns how often the weights were sent: as often as their most requested part.
fn served(fixture: &Fixture) -> usize {
    let log = fixture.hub.log();
    let weights = |entry: &&LogEntry| entry.host == Host::Cdn && entry.path.ends_with("model.safetensors");
    let parts: Vec<_> = log.iter().filter(weights).map(|entry| entry.range.clone()).collect();
    parts.iter().map(|part| parts.iter().filter(|other| *other == part).count()).max().unwrap_or(0)
}

#[tokio::test]
async fn one_server_fetches_and_the_other_reuses() {
    let fixture = first();
    let other = beside(&fixture);
    let (mut a, mut b) = (fixture.start().await, other.start().await);
    let pause = fixture.hub.pause_at("*/model.safetensors", 2 << 20);
    let first = a.pull(pull("o/n", Quantization::Q8)).await.unwrap().model_id;
    pause.reached().await;
    let second = b.pull(pull("o/n", Quantization::Q8)).await.unwrap().model_id;
    assert_eq!(first, second, "ids of two catalogs may be equal");
    let mut watch = b.watch(second).await;
    while !watch.message().await.unwrap().unwrap().detail.contains("another process") {}
    pause.release();
    assert_eq!(a.end_of(first).await.state(), State::Succeeded);
    let end = b.end_of(second).await;
    assert_eq!((end.state(), end.resumed_bytes), (State::Succeeded, end.total_bytes));
    assert_eq!(served(&fixture), 1);
    assert_eq!(fixture.names("huggingface"), ["o--n--Q8", "o--n--Q8--1"]);
    let rows = [fixture.catalog.row(first), other.catalog.row(second)];
    assert_ne!(rows[0].storage_path, rows[1].storage_path);
    assert_eq!((rows[0].files.len(), rows[0].actual_quantization()), (rows[1].files.len(), Quantization::Q8));
    // Neither model needs the other's files.
    a.remove("n").await.unwrap();
    assert!(fs::metadata(PathBuf::from(&rows[1].storage_path).join("model.gguf")).is_ok());
    b.remove("n").await.unwrap();
    assert!(fixture.names("huggingface").is_empty() && fixture.names(".locks").is_empty());
}

#[tokio::test]
async fn a_waiting_server_takes_over_when_the_other_stops() {
    let fixture = first();
    let other = beside(&fixture);
    let (mut a, mut b) = (fixture.start().await, other.start().await);
    let pause = fixture.hub.pause_at("*/model.safetensors", 2 << 20);
    a.pull(pull("o/n", Quantization::Native)).await.unwrap();
    pause.reached().await;
    let second = b.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    let mut watch = b.watch(second).await;
    while !watch.message().await.unwrap().unwrap().detail.contains("another process") {}
    a.stop().await;
    pause.release();
    assert_eq!(b.end_of(second).await.state(), State::Succeeded);
    // The first server resumes after its restart, and reuses what the second has made.
    let before = served(&fixture);
    let mut a = fixture.start().await;
    assert_eq!(a.end_of(1).await.state(), State::Succeeded);
    assert_eq!(served(&fixture), before);
}

#[tokio::test]
async fn a_wait_for_the_other_server_can_be_cancelled() {
    let fixture = first();
    let other = beside(&fixture);
    let (mut a, mut b) = (fixture.start().await, other.start().await);
    let pause = fixture.hub.pause_at("*/model.safetensors", 2 << 20);
    let first = a.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    let second = b.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    b.cancel(second).await.unwrap();
    assert!(other.catalog.rows().is_empty());
    pause.release();
    assert_eq!(a.end_of(first).await.state(), State::Succeeded);
    assert_eq!(fixture.names("huggingface"), ["o--n--NATIVE"]);
}

#[tokio::test]
async fn another_catalogs_files_are_left_alone() {
    let fixture = first();
    let other = beside(&fixture);
    let mut a = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 2 << 20);
    a.pull(pull("o/n", Quantization::Native)).await.unwrap();
    pause.reached().await;
    // It finds folders that its own catalog does not know.
    let mut b = other.start().await;
    let report = b.check_storage(true).await;
    assert!(report.findings.len() == 1 && !report.findings[0].problem, "{report:?}");
    pause.release();
    assert_eq!(a.end_of(1).await.state(), State::Succeeded);
    b.stop().await;
    other.start().await.check_storage(true).await;
    assert_eq!(fixture.names("huggingface"), ["o--n--NATIVE"]);
    assert_eq!(
        a.pull(pull("o/n", Quantization::Native)).await.unwrap_err().reason,
        Reason::ModelAlreadyExists
    );
}

#[tokio::test]
async fn a_lost_database_costs_no_download() {
    let fixture = first();
    fixture.start().await.fetch(pull("o/n", Quantization::Q8)).await;
    let other = beside(&fixture);
    let before = served(&fixture);
    let end = other.start().await.fetch(pull("o/n", Quantization::Q8)).await;
    assert_eq!((served(&fixture), end.resumed_bytes), (before, end.total_bytes));
}
