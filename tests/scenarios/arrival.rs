//! Models arrive: shown while they do, verified, in their order, and not at all when something is wrong.

use std::path::Path;

use fake_hub::{Fault, FaultKind, Host};
use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::{Quantization, model};
use millm_proto::downloader::v1::{HubSource, ListDownloadsRequest, download::State};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{
    Fixture, Layout, MEMBER, Options, Server, fixture, hub, in_both_layouts, is_final, large, model_hub,
    within,
};

in_both_layouts!(
    a_pull_over_rest_shows_how_it_goes,
    published_files_are_kept_byte_for_byte,
    one_gguf_file_is_chosen,
    cancelling_leaves_nothing,
    the_queue_keeps_its_order,
    asking_twice_is_one_download,
    a_branch_that_moves_does_not_mix,
    passing_trouble_is_survived,
    damage_is_never_ready,
    a_hub_that_is_gone_is_named,
    a_token_is_nowhere_to_be_found,
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

/// Regular files below a folder.
fn files_below(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.expect("readable").path()) {
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path.display().to_string());
        }
    }
    files
}

async fn cancelling_leaves_nothing(layout: Layout) {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 3 << 20);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let started = server.start_pull(from("millm/tiny-millm"), Quantization::Q4).await.unwrap();
    within("the first bytes", pause.reached()).await;
    let path = format!("/api/models/{}", started.model_id);
    assert!(server.rest().post(&format!("{path}/cancel"), &json!({})).await.data().is_null());
    let gone = server.rest().get(&path).await;
    assert_eq!((gone.status, gone.code()), (404, "MODEL_NOT_FOUND"));
    let left: Vec<String> =
        files_below(&server.models_folder()).into_iter().filter(|file| !file.ends_with(".lock")).collect();
    assert!(left.is_empty(), "{left:?}");
    pause.release();
    server.pull("millm/tiny-millm", Quantization::Q4).await;
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

async fn asking_twice_is_one_download(layout: Layout) {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 1 << 20);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let first = server.start_pull(from("millm/tiny-millm"), Quantization::Q4).await.unwrap();
    let second = server.start_pull(from("millm/tiny-millm"), Quantization::Q4).await;
    // Either is told of the one that exists.
    match second {
        Ok(same) => assert_eq!(same.model_id, first.model_id),
        Err(status) => {
            let error = ServiceError::from(&status);
            assert_eq!(error.reason, Reason::ModelAlreadyExists);
            assert_eq!(error.details["model_id"], first.model_id.to_string());
        }
    }
    pause.release();
    server.arrived(first.model_id).await;
    let served = hub.log().iter().filter(|entry| entry.host == Host::Cdn && entry.method == "GET").count();
    assert!(served <= 2, "{:?}", hub.log());
}

async fn a_branch_that_moves_does_not_mix(layout: Layout) {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 1 << 20);
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let started = server.start_pull(from("millm/tiny-millm"), Quantization::Native).await.unwrap();
    within("the first bytes", pause.reached()).await;
    let moved = hub.commit("millm/tiny-millm", "main", vec![("config.json".into(), "{}".into())]).unwrap();
    pause.release();
    let model = server.arrived(started.model_id).await;
    assert_ne!(model.commit, moved);
    let config = std::fs::read(fixture("tiny-millm/config.json")).unwrap();
    assert_eq!(std::fs::read(Path::new(&model.storage_path).join("config.json")).unwrap(), config);
}

async fn passing_trouble_is_survived(layout: Layout) {
    let status = |code| FaultKind::Status { code, retry_after: None, rate_limit_seconds: None };
    let limited = FaultKind::Status { code: 429, retry_after: Some("1".into()), rate_limit_seconds: None };
    for fault in [
        Fault::new("/api/models/*", status(503)).times(2),
        Fault::new("*/config.json", status(500)).times(2),
        Fault::new(WEIGHTS, status(502)).on(Host::Cdn).times(2),
        Fault::new("/api/models/*", limited).times(1),
        Fault::new(WEIGHTS, FaultKind::Cut { after: 1_000_000 }).times(2),
        Fault::new(WEIGHTS, FaultKind::Stall { after: Some(1_000_000), for_ms: None }).times(1),
        Fault::new(WEIGHTS, FaultKind::Stall { after: None, for_ms: None }).on(Host::Cdn).times(1),
        Fault::new(WEIGHTS, FaultKind::Corrupt { at: None }).times(1),
        Fault::new(WEIGHTS, FaultKind::Short { by: 1000 }).times(1),
        Fault::new(WEIGHTS, FaultKind::Endless).times(1),
        Fault::new(WEIGHTS, FaultKind::ExpiredLink).on(Host::Cdn).times(1),
    ] {
        let hub = model_hub();
        let id = hub.fault(fault.clone());
        let options = Options::with_hub(hub.url()).set("MILLM_DOWNLOAD_STALL_TIMEOUT", "1");
        let server = Server::start(layout, options).await;
        let model = server.pull("millm/tiny-millm", Quantization::Native).await;
        let weights = model.files.iter().find(|file| file.path == "model.safetensors").expect("listed");
        let expected = Sha256::digest(std::fs::read(fixture("tiny-millm/model.safetensors")).unwrap());
        assert_eq!(weights.sha256, hex::encode(expected), "{fault:?}");
        assert_eq!(Some(hub.fault_uses(id)), fault.times, "{fault:?}");
    }
}

async fn damage_is_never_ready(layout: Layout) {
    let hub = model_hub();
    hub.fault(Fault::new(WEIGHTS, FaultKind::Corrupt { at: Some(3_000_000) }));
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let started = server.start_pull(from("millm/tiny-millm"), Quantization::Q4).await.unwrap();
    let end = server.watch_until(started.model_id, is_final).await;
    assert_eq!(end.state(), State::Failed);
    let error = ServiceError::from_rpc(&end.error.expect("a reason"));
    assert_eq!(error.reason, Reason::ChecksumMismatch, "{error}");
    let row = server.model(&started.model_id.to_string()).await.unwrap();
    assert_eq!(row.state(), model::State::Error);
    let shown = server.rest().get(&format!("/api/models/{}", started.model_id)).await.data();
    assert_eq!((&shown["status"], &shown["error_code"]), (&json!("error"), &json!("CHECKSUM_MISMATCH")));
    // Asking again once the hub is well is Retry: the same row.
    hub.clear_faults();
    let again = server.start_pull(from("millm/tiny-millm"), Quantization::Q4).await.unwrap();
    assert_eq!(again.model_id, started.model_id);
    server.arrived(again.model_id).await;
}

async fn a_hub_that_is_gone_is_named(layout: Layout) {
    let mut hub = model_hub();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    hub.take_down();
    let answer = server.rest().post("/api/models/preview", &json!({ "repo_id": "millm/tiny-millm" })).await;
    assert_eq!((answer.status, answer.code()), (502, "HUB_UNAVAILABLE"), "{}", answer.text);
    assert!(answer.message().starts_with("127.0.0.1 is not answering"), "{}", answer.message());
}

async fn a_token_is_nowhere_to_be_found(layout: Layout) {
    let hub = hub(&[Fixture::Gated]);
    hub.add_repo(large(1)).unwrap();
    let options = Options::with_hub(hub.url()).set("LOG_LEVEL", "trace");
    let server = Server::start(layout, options).await;
    let body = json!({
        "source": "huggingface", "repo_id": "acme/gated", "quantization": "Q4", "hf_token": MEMBER,
    });
    let asked = server.rest().post("/api/models", &body).await.data();
    server.arrived(asked["id"].as_i64().expect("an id")).await;
    let asked = hub.log();
    assert!(asked.iter().any(|entry| entry.host == Host::Hub && entry.authorized));
    assert!(asked.iter().all(|entry| entry.host == Host::Hub || !entry.authorized), "{asked:?}");
    for path in files_below(server.folder()) {
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(MEMBER.len()).any(|window| window == MEMBER.as_bytes());
        assert!(!found, "the token is in {path}");
    }
    assert!(server.log().contains("\"level\":\"TRACE\""), "the log told everything, and was looked at");
}
