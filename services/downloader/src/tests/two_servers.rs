//! Two servers, each with a catalogue of its own, on one models folder.

use std::{fs, path::PathBuf};

use fake_hub::{Host, LogEntry};
use millm_kit::Reason;
use millm_proto::{catalog::v1::Quantization, downloader::v1::download::State};

use super::{
    catalog::MemoryCatalog,
    world::{World, pull, synthetic},
};

/// The second one's world: the first one's hub and folder.
fn beside(world: &World) -> World {
    let mut other = World::new([]);
    other.catalog = MemoryCatalog::named("fedcba9876543210");
    other.settings.push(("HF_ENDPOINT", world.hub.url().to_owned()));
    other.settings.push(("MODEL_CACHE_DIR", world.models().display().to_string()));
    other
}

fn first() -> World {
    let mut world = World::new([synthetic("o/n")]);
    world.catalog = MemoryCatalog::named("0123456789abcdef");
    world
}

/// How often the weights were sent: as often as the part of them that was asked for most.
fn served(world: &World) -> usize {
    let log = world.hub.log();
    let weights = |entry: &&LogEntry| entry.host == Host::Cdn && entry.path.ends_with("model.safetensors");
    let parts: Vec<_> = log.iter().filter(weights).map(|entry| entry.range.clone()).collect();
    parts.iter().map(|part| parts.iter().filter(|other| *other == part).count()).max().unwrap_or(0)
}

#[tokio::test]
async fn one_fetches_and_the_other_uses_it() {
    let world = first();
    let other = beside(&world);
    let (mut a, mut b) = (world.start().await, other.start().await);
    let pause = world.hub.pause_at("*/model.safetensors", 2 << 20);
    let first = a.pull(pull("o/n", Quantization::Q8)).await.unwrap().model_id;
    pause.reached().await;
    let second = b.pull(pull("o/n", Quantization::Q8)).await.unwrap().model_id;
    assert_eq!(first, second, "ids say nothing across catalogues");
    let mut watch = b.watch(second).await;
    while !watch.message().await.unwrap().unwrap().detail.contains("another process") {}
    pause.release();
    assert_eq!(a.end_of(first).await.state(), State::Succeeded);
    let end = b.end_of(second).await;
    assert_eq!((end.state(), end.resumed_bytes), (State::Succeeded, end.total_bytes));
    assert_eq!(served(&world), 1);
    assert_eq!(world.names("huggingface"), ["o--n--Q8", "o--n--Q8--1"]);
    let rows = [world.catalog.row(first), other.catalog.row(second)];
    assert_ne!(rows[0].storage_path, rows[1].storage_path);
    assert_eq!((rows[0].files.len(), rows[0].actual_quantization()), (rows[1].files.len(), Quantization::Q8));
    // Neither needs the other's.
    a.remove("n").await.unwrap();
    assert!(fs::metadata(PathBuf::from(&rows[1].storage_path).join("model.gguf")).is_ok());
    b.remove("n").await.unwrap();
    assert!(world.names("huggingface").is_empty() && world.names(".locks").is_empty());
}

#[tokio::test]
async fn who_waits_takes_over_when_the_other_ends() {
    let world = first();
    let other = beside(&world);
    let (mut a, mut b) = (world.start().await, other.start().await);
    let pause = world.hub.pause_at("*/model.safetensors", 2 << 20);
    a.pull(pull("o/n", Quantization::Native)).await.unwrap();
    pause.reached().await;
    let second = b.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    let mut watch = b.watch(second).await;
    while !watch.message().await.unwrap().unwrap().detail.contains("another process") {}
    a.stop().await;
    pause.release();
    assert_eq!(b.end_of(second).await.state(), State::Succeeded);
    // The first goes on when it is back, with what the second has made.
    let before = served(&world);
    let mut a = world.start().await;
    assert_eq!(a.end_of(1).await.state(), State::Succeeded);
    assert_eq!(served(&world), before);
}

#[tokio::test]
async fn waiting_can_be_cancelled() {
    let world = first();
    let other = beside(&world);
    let (mut a, mut b) = (world.start().await, other.start().await);
    let pause = world.hub.pause_at("*/model.safetensors", 2 << 20);
    let first = a.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    let second = b.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    b.cancel(second).await.unwrap();
    assert!(other.catalog.rows().is_empty());
    pause.release();
    assert_eq!(a.end_of(first).await.state(), State::Succeeded);
    assert_eq!(world.names("huggingface"), ["o--n--NATIVE"]);
}

#[tokio::test]
async fn nobody_touches_what_belongs_to_others() {
    let world = first();
    let other = beside(&world);
    let mut a = world.start().await;
    let pause = world.hub.pause_at("*/model.safetensors", 2 << 20);
    a.pull(pull("o/n", Quantization::Native)).await.unwrap();
    pause.reached().await;
    // It finds folders that its own catalogue does not know.
    let mut b = other.start().await;
    let report = b.check_storage(true).await;
    assert!(report.findings.len() == 1 && !report.findings[0].problem, "{report:?}");
    pause.release();
    assert_eq!(a.end_of(1).await.state(), State::Succeeded);
    b.stop().await;
    other.start().await.check_storage(true).await;
    assert_eq!(world.names("huggingface"), ["o--n--NATIVE"]);
    assert_eq!(
        a.pull(pull("o/n", Quantization::Native)).await.unwrap_err().reason,
        Reason::ModelAlreadyExists
    );
}

#[tokio::test]
async fn a_lost_database_costs_no_byte() {
    let world = first();
    world.start().await.fetch(pull("o/n", Quantization::Q8)).await;
    let other = beside(&world);
    let before = served(&world);
    let end = other.start().await.fetch(pull("o/n", Quantization::Q8)).await;
    assert_eq!((served(&world), end.resumed_bytes), (before, end.total_bytes));
}
