//! Restarts: the process stops at a bad moment, and the Catalog goes away and comes back.

use std::fs;

use millm_proto::{
    catalog::v1::{Model, Quantization, Source, model},
    downloader::v1::download::State,
};

use super::fixture::{Fixture, pull, synthetic, tiny};

#[tokio::test]
async fn a_download_resumes_after_a_restart() {
    let fixture = Fixture::new([synthetic("o/n"), tiny("o/second")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 15 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Q4)).await.unwrap().model_id;
    let second = downloader.pull(pull("o/second", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    downloader.all_but(id, 1 << 20).await;
    downloader.stop().await;
    pause.release();
    assert_eq!(fixture.catalog.row(id).state(), model::State::Pending);

    fixture.hub.clear_log();
    let mut downloader = fixture.start().await;
    let end = downloader.end_of(id).await;
    assert_eq!(end.state(), State::Succeeded, "{:?}", end.error);
    let log = fixture.hub.log();
    assert!(!log.iter().any(|e| e.path.starts_with("/api/models/o/n/")), "the plan was on disk");
    let sent = log.iter().filter(|e| e.path.contains("/model.safetensors") && !e.path.contains("second"));
    assert_eq!(sent.map(|e| e.bytes_sent).sum::<u64>(), 1 << 20);
    assert_eq!(end.resumed_bytes, end.total_bytes - (1 << 20));
    assert_eq!(downloader.end_of(second).await.state(), State::Succeeded);
    assert_eq!(fixture.names("huggingface"), ["o--n--Q4", "o--second--NATIVE"]);
}

#[tokio::test]
async fn a_catalog_restart_loses_nothing() {
    let fixture = Fixture::new([synthetic("o/n")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    let mut watcher = downloader.watch(id).await;
    pause.reached().await;
    fixture.catalog.set_away(true);
    pause.release();
    fixture.catalog.missed().await;
    let folder = fixture.models().join("huggingface/o--n--NATIVE");
    assert!(folder.exists(), "the folder is complete, only its row is not");
    fixture.catalog.set_away(false);
    let mut last = None;
    while let Some(snapshot) = watcher.message().await.unwrap() {
        last = Some(snapshot);
    }
    assert_eq!(last.unwrap().state(), State::Succeeded);
    assert_eq!(fixture.catalog.row(id).state(), model::State::Ready);
}

#[tokio::test]
async fn a_crash_between_rename_and_row_is_repaired() {
    let fixture = Fixture::new([tiny("o/n")]);
    let mut downloader = fixture.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Q8)).await.model_id;
    downloader.stop().await;
    let ready = fixture.catalog.row(id);
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
    fixture.catalog.put(row);
    fixture.hub.clear_log();
    let mut downloader = fixture.start().await;
    assert_eq!(downloader.end_of(id).await.state(), State::Succeeded);
    assert!(fixture.hub.log().is_empty(), "nothing was missing");
    let again = fixture.catalog.row(id);
    assert_eq!(
        (again.files, again.storage_path, again.state),
        (ready.files, ready.storage_path, ready.state)
    );
}

#[tokio::test]
async fn leftovers_of_a_crash_are_removed() {
    let fixture = Fixture::new([tiny("o/n")]);
    let mut downloader = fixture.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Native)).await.model_id;
    downloader.stop().await;
    let mut row = fixture.catalog.row(id);
    row.set_state(model::State::Deleting);
    fixture.catalog.put(row);
    let orphan = fixture.models().join("huggingface/.incoming-77");
    fs::create_dir_all(&orphan).unwrap();
    fs::write(orphan.join("model.safetensors"), b"x").unwrap();
    let mut downloader = fixture.start().await;
    assert!(downloader.list().await.is_empty());
    assert!(fixture.catalog.rows().is_empty());
    assert!(fixture.names("huggingface").is_empty());
}

#[tokio::test]
async fn half_a_quantized_file_never_passes_for_the_model() {
    let fixture = Fixture::new([tiny("o/n")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Q8)).await.unwrap().model_id;
    pause.reached().await;
    downloader.stop().await;
    pause.release();
    let incoming = fixture.models().join(format!("huggingface/.incoming-{id}"));
    for name in ["model.gguf", ".model.gguf.new"] {
        fs::write(incoming.join(name), b"GGUF").unwrap();
    }
    let mut downloader = fixture.start().await;
    assert_eq!(downloader.end_of(id).await.state(), State::Succeeded);
    let names = fixture.names("huggingface/o--n--Q8");
    assert!(!names.contains(&".model.gguf.new".to_owned()), "{names:?}");
    assert!(fixture.catalog.row(id).disk_size_bytes > 1 << 20);
}
