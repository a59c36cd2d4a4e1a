//! Downloads: their progress, verified files, and the order of the queue.

use std::path::Path;

use fake_hub::Host;
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::{HubSource, ListDownloadsRequest, download::State};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{
    Fixture, Layout, Options, Server, fixture, hub, in_both_layouts, is_final, model_hub, within,
};

in_both_layouts!(
    a_pull_over_rest_shows_how_it_goes,
    published_files_are_kept_byte_for_byte,
    one_gguf_file_is_chosen,
    the_queue_keeps_its_order,
);

const WEIGHTS: &str = "*/model.safetensors";

fn from(repo: &str) -> HubSource {
    HubSource { repo_id: repo.to_owned(), ..HubSource::default() }
}

async fn a_pull_over_rest_shows_how_it_goes(layout: Layout) {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 4 << 20);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let body = json!({ "source": "huggingface", "repo_id": "millm/tiny-millm", "quantization": "Q4" });
    let asked = server.rest().post("/api/models", &body).await.data();
    assert_eq!(asked["repo_id"], "millm/tiny-millm");
    let id = asked["id"].as_i64().expect("an id");
    within("the first bytes", pause.reached()).await;
    let half = server.watch_until(id, |download| download.downloaded_bytes >= 4 << 20).await;
    assert_eq!(half.state(), State::Downloading);
    assert!(half.fraction > 0.0 && half.fraction < 1.0);
    let shown = server.rest().get(&format!("/api/models/{id}")).await.data();
    assert_eq!(shown["status"], "downloading");
    let progress = shown["download_progress"].as_f64().expect("a number");
    assert!(progress > 0.0 && progress < 100.0);
    pause.release();
    server.arrived(id).await;
    let ready = server.rest().get(&format!("/api/models/{id}")).await.data();
    assert_eq!((&ready["status"], &ready["quantization"]), (&json!("ready"), &json!("Q4")));
    assert!(ready["disk_size_bytes"].as_u64().expect("bytes") < 4 << 20);
    let list = server.rest().get("/api/models").await.data();
    assert_eq!(list.as_array().map(Vec::len), Some(1));
}

async fn published_files_are_kept_byte_for_byte(layout: Layout) {
    let hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let model = server.pull("millm/tiny-millm", Quantization::Native).await;
    let weights = std::fs::read(fixture("tiny-millm/model.safetensors")).unwrap();
    let kept = std::fs::read(Path::new(&model.storage_path).join("model.safetensors")).unwrap();
    assert!(kept == weights, "the weights differ");
    let listed = model.files.iter().find(|file| file.path == "model.safetensors").expect("it is listed");
    assert_eq!(listed.sha256, hex::encode(Sha256::digest(&weights)));
    assert_eq!(listed.size_bytes as usize, weights.len());
    assert_eq!(model.commit.len(), 40);
}

async fn one_gguf_file_is_chosen(layout: Layout) {
    let hub = hub(&[Fixture::TinyGguf]);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let source = HubSource { file: "tiny-Q4_K_M.gguf".to_owned(), ..from("millm/tiny-gguf") };
    let started = server.start_pull(source, Quantization::Native).await.unwrap();
    let model = server.arrived(started.model_id).await;
    assert_eq!(model.actual_quantization(), Quantization::Native);
    assert_eq!(model.architecture.as_ref().map(|a| a.family.as_str()), Some("llama"));
    let asked: Vec<_> = hub.log().into_iter().filter(|entry| entry.host == Host::Cdn).collect();
    assert!(asked.iter().all(|entry| entry.path.ends_with("/tiny-Q4_K_M.gguf")), "{asked:?}");
    server.load(&model.handle).await;
    let answer = server.rest().chat(&model.handle, "What is the capital of Japan?").await;
    assert_eq!(answer, "The capital of Japan is Tokyo.");
}

async fn the_queue_keeps_its_order(layout: Layout) {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 1 << 20);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let mut ids = Vec::new();
    for quantization in [Quantization::Q8, Quantization::Q4, Quantization::Q2] {
        ids.push(server.start_pull(from("millm/tiny-millm"), quantization).await.unwrap().model_id);
    }
    within("the first bytes", pause.reached()).await;
    let listed = server.downloader().list_downloads(ListDownloadsRequest {}).await.unwrap().into_inner();
    let mut waiting: Vec<(u32, i64)> = listed
        .downloads
        .iter()
        .filter(|download| download.state() == State::Queued)
        .map(|download| (download.queue_position, download.model_id))
        .collect();
    waiting.sort_unstable();
    assert_eq!(waiting, [(1, ids[1]), (2, ids[2])]);
    pause.release();
    let mut ends = Vec::new();
    for id in ids {
        let end = server.watch_until(id, is_final).await;
        assert_eq!(end.state(), State::Succeeded, "{:?}", end.error);
        ends.push(end.end_time.map(|time| (time.seconds, time.nanos)).expect("an end"));
    }
    assert!(ends.is_sorted(), "{ends:?}");
}
