//! The process ends at a bad moment and begins again; the catalogue goes away and comes back.

use std::fs;

use millm_proto::{
    catalog::v1::{Model, Quantization, Source, model},
    downloader::v1::download::State,
};

use super::world::{World, pull, synthetic, tiny};

#[tokio::test]
async fn a_download_goes_on_after_a_restart() {
    let world = World::new([synthetic("o/n"), tiny("o/second")]);
    let mut downloader = world.start().await;
    let pause = world.hub.pause_at("*/model.safetensors", 15 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Q4)).await.unwrap().model_id;
    let second = downloader.pull(pull("o/second", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    downloader.all_but(id, 1 << 20).await;
    downloader.stop().await;
    pause.release();
    assert_eq!(world.catalog.row(id).state(), model::State::Pending);

    world.hub.clear_log();
    let mut downloader = world.start().await;
    let end = downloader.end_of(id).await;
    assert_eq!(end.state(), State::Succeeded, "{:?}", end.error);
    let log = world.hub.log();
    assert!(!log.iter().any(|e| e.path.starts_with("/api/models/o/n/")), "the plan was on disk");
    let sent = log.iter().filter(|e| e.path.contains("/model.safetensors") && !e.path.contains("second"));
    assert_eq!(sent.map(|e| e.bytes_sent).sum::<u64>(), 1 << 20);
    assert_eq!(end.resumed_bytes, end.total_bytes - (1 << 20));
    assert_eq!(downloader.end_of(second).await.state(), State::Succeeded);
    assert_eq!(world.names("huggingface"), ["o--n--Q4", "o--second--NATIVE"]);
}

#[tokio::test]
async fn a_catalogue_that_restarts_loses_nothing() {
    let world = World::new([synthetic("o/n")]);
    let mut downloader = world.start().await;
    let pause = world.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    let mut watcher = downloader.watch(id).await;
    pause.reached().await;
    world.catalog.set_away(true);
    pause.release();
    world.catalog.missed().await;
    let folder = world.models().join("huggingface/o--n--NATIVE");
    assert!(folder.exists(), "it is complete, only its row is not");
    world.catalog.set_away(false);
    let mut last = None;
    while let Some(snapshot) = watcher.message().await.unwrap() {
        last = Some(snapshot);
    }
    assert_eq!(last.unwrap().state(), State::Succeeded);
    assert_eq!(world.catalog.row(id).state(), model::State::Ready);
}

#[tokio::test]
async fn a_crash_between_the_name_and_the_row_is_made_good() {
    let world = World::new([tiny("o/n")]);
    let mut downloader = world.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Q8)).await.model_id;
    downloader.stop().await;
    let ready = world.catalog.row(id);
    let mut row = Model {
        id,
        handle: ready.handle.clone(),
        repo_id: ready.repo_id.clone(),
        commit: ready.commit.clone(),
        ..Model::default()
    };
    row.set_source(Source::Huggingface);
    row.set_requested_quantization(Quantization::Q8);
    row.set_state(model::State::Pending);
    world.catalog.put(row);
    world.hub.clear_log();
    let mut downloader = world.start().await;
    assert_eq!(downloader.end_of(id).await.state(), State::Succeeded);
    assert!(world.hub.log().is_empty(), "nothing was missing");
    let again = world.catalog.row(id);
    assert_eq!(
        (again.files, again.storage_path, again.state),
        (ready.files, ready.storage_path, ready.state)
    );
}

#[tokio::test]
async fn what_a_crash_left_is_cleared() {
    let world = World::new([tiny("o/n")]);
    let mut downloader = world.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Native)).await.model_id;
    downloader.stop().await;
    let mut row = world.catalog.row(id);
    row.set_state(model::State::Deleting);
    world.catalog.put(row);
    let orphan = world.models().join("huggingface/.incoming-77");
    fs::create_dir_all(&orphan).unwrap();
    fs::write(orphan.join("model.safetensors"), b"x").unwrap();
    let mut downloader = world.start().await;
    assert!(downloader.list().await.is_empty());
    assert!(world.catalog.rows().is_empty());
    assert!(world.names("huggingface").is_empty());
}

#[tokio::test]
async fn half_a_quantized_file_never_passes_for_the_model() {
    let world = World::new([tiny("o/n")]);
    let mut downloader = world.start().await;
    let pause = world.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Q8)).await.unwrap().model_id;
    pause.reached().await;
    downloader.stop().await;
    pause.release();
    let incoming = world.models().join(format!("huggingface/.incoming-{id}"));
    for name in ["model.gguf", ".model.gguf.new"] {
        fs::write(incoming.join(name), b"GGUF").unwrap();
    }
    let mut downloader = world.start().await;
    assert_eq!(downloader.end_of(id).await.state(), State::Succeeded);
    let names = world.names("huggingface/o--n--Q8");
    assert!(!names.contains(&".model.gguf.new".to_owned()), "{names:?}");
    assert!(world.catalog.row(id).disk_size_bytes > 1 << 20);
}
