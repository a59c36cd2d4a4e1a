//! Files that are on this machine already are reused: from other models, Hugging Face's cache, or another server's
//! model. Also the choice among a repository's models.

use std::{fs, path::Path};

use fake_hub::{RepoSpec, RunningHub};
use millm_proto::{
    catalog::v1::{Model, Quantization},
    downloader::v1::HubSource,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{
    Fixture, Layout, Options, Role, Server, fetches, fixture, hub, in_both_layouts, large, model_hub, within,
};

in_both_layouts!(
    another_quantization_fetches_no_weights,
    the_cache_of_hugging_face_is_used,
    fault_17_with_the_hub_down_a_verified_copy_is_used,
    fault_24_two_servers_on_one_folder_fetch_once,
    fault_24_a_lock_of_the_dead_is_harmless,
    a_model_is_chosen_by_folder_and_by_quantization,
);

const WEIGHTS: &str = "*/model.safetensors";

fn from(repo: &str) -> HubSource {
    HubSource { repo_id: repo.to_owned(), ..HubSource::default() }
}

/// Returns the number of times that the weights were sent: the maximum over their parts.
fn served(hub: &RunningHub) -> usize {
    let parts: Vec<_> = fetches(hub, "model.safetensors").into_iter().map(|entry| entry.range).collect();
    parts.iter().map(|part| parts.iter().filter(|other| *other == part).count()).max().unwrap_or(0)
}

fn sha256(path: &Path) -> String {
    hex::encode(Sha256::digest(fs::read(path).unwrap()))
}

fn weights_of(model: &Model) -> String {
    sha256(&Path::new(&model.storage_path).join("model.safetensors"))
}

async fn another_quantization_fetches_no_weights(layout: Layout) {
    let hub = hub(&[]);
    hub.add_repo(large(16)).unwrap();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    server.pull("acme/large", Quantization::Native).await;
    let before = served(&hub);
    let model = server.pull("acme/large", Quantization::Q8).await;
    assert_eq!(served(&hub), before);
    assert_eq!(model.actual_quantization(), Quantization::Q8);
}

async fn the_cache_of_hugging_face_is_used(layout: Layout) {
    let hub = model_hub();
    let folder = tempfile::tempdir().unwrap();
    let weights = fixture("tiny-millm/model.safetensors");
    let blobs = folder.path().join("models--millm--tiny-millm/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::copy(&weights, blobs.join(sha256(&weights))).unwrap();
    let cache = folder.path().display().to_string();
    let server = Server::start(layout, Options::with_hub(hub.url()).set("HF_HUB_CACHE", &cache)).await;
    let model = server.pull("millm/tiny-millm", Quantization::Native).await;
    assert_eq!(served(&hub), 0, "{:?}", hub.log());
    assert_eq!(weights_of(&model), sha256(&weights));
}

async fn fault_17_with_the_hub_down_a_verified_copy_is_used(layout: Layout) {
    let mut hub = model_hub();
    let options = Options::with_hub(hub.url()).set("MILLM_DOWNLOAD_RETRIES", "0");
    let server = Server::start(layout, options).await;
    let native = server.pull("millm/tiny-millm", Quantization::Native).await;
    hub.take_down();
    let quantized = server.pull("millm/tiny-millm", Quantization::Q4).await;
    assert_eq!(quantized.commit, native.commit);
    let other = server.cli().run(&["pull", "acme/other"]).await;
    assert_eq!(other.code, 1);
    assert!(other.stderr.contains("127.0.0.1 is not answering"), "{}", other.stderr);
}

async fn fault_24_two_servers_on_one_folder_fetch_once(layout: Layout) {
    let hub = hub(&[]);
    hub.add_repo(large(16)).unwrap();
    let pause = hub.pause_at(WEIGHTS, 8 << 20);
    let one = Server::start(layout, Options::with_hub(hub.url())).await;
    let folder = one.models_folder().display().to_string();
    let two = Server::start(layout, Options::with_hub(hub.url()).set("MODEL_CACHE_DIR", &folder)).await;
    let first = one.start_pull(from("acme/large"), Quantization::Q8).await.unwrap();
    within("the first bytes", pause.reached()).await;
    let second = two.start_pull(from("acme/large"), Quantization::Q8).await.unwrap();
    two.watch_until(second.model_id, |download| download.detail.contains("another process")).await;
    pause.release();
    let (first, second) = (one.arrived(first.model_id).await, two.arrived(second.model_id).await);
    assert_eq!(served(&hub), 1, "{:?}", hub.log());
    assert_ne!(first.storage_path, second.storage_path);
    let made = |model: &Model| sha256(&Path::new(&model.storage_path).join("model.gguf"));
    assert_eq!(made(&first), made(&second));
    // Neither model needs the other's files.
    one.cli().run(&["rm", &first.handle, "--yes"]).await.ok();
    two.load(&second.handle).await;
    assert_eq!(two.cli().run(&["doctor"]).await.code, 0);
}

async fn fault_24_a_lock_of_the_dead_is_harmless(layout: Layout) {
    let hub = hub(&[]);
    hub.add_repo(large(16)).unwrap();
    let pause = hub.pause_at(WEIGHTS, 8 << 20);
    let mut one = Server::start(layout, Options::with_hub(hub.url())).await;
    let folder = one.models_folder().display().to_string();
    let two = Server::start(layout, Options::with_hub(hub.url()).set("MODEL_CACHE_DIR", &folder)).await;
    one.start_pull(from("acme/large"), Quantization::Native).await.unwrap();
    within("the first bytes", pause.reached()).await;
    let second = two.start_pull(from("acme/large"), Quantization::Native).await.unwrap();
    two.watch_until(second.model_id, |download| download.detail.contains("another process")).await;
    one.kill(Role::Downloader).await;
    pause.release();
    let second = two.arrived(second.model_id).await;
    one.restart(Role::Downloader).await;
    let first = one.arrived(1).await;
    assert_eq!(weights_of(&first), weights_of(&second));
}

async fn a_model_is_chosen_by_folder_and_by_quantization(layout: Layout) {
    let hub = hub(&[Fixture::TinyGguf]);
    let mut several = RepoSpec::folder("acme/several", &fixture("tiny-millm")).unwrap();
    for (name, _) in &mut several.files {
        *name = format!("small/{name}");
    }
    hub.add_repo(several).unwrap();
    let server = Server::start(layout, Options::with_hub(hub.url())).await;
    let cli = server.cli();
    let told = cli.run(&["pull", "acme/several"]).await;
    assert!(told.code == 1 && told.stderr.contains("must be one of: small"), "{told:?}");
    let folder = cli.run(&["pull", "acme/several", "--subfolder", "small", "--json"]).await;
    assert_eq!((folder.code, &folder.json()["status"]), (0, &json!("ready")), "{folder:?}");
    let told = cli.run(&["pull", "millm/tiny-gguf:Q9_9"]).await;
    assert!(told.code == 1 && told.stderr.contains("tiny-Q4_K_M.gguf"), "{told:?}");
    let chosen = cli.run(&["pull", "millm/tiny-gguf:Q4_K_M", "--name", "chosen", "--json"]).await;
    assert_eq!(chosen.code, 0, "{chosen:?}");
    assert_eq!(chosen.json()["file"], "tiny-Q4_K_M.gguf");
    let body = json!({ "repo_id": "millm/tiny-gguf", "variant": "q8_0", "custom_name": "other" });
    let asked = server.rest().post("/api/models", &body).await.data();
    let other = server.arrived(asked["id"].as_i64().expect("an id")).await;
    assert_eq!(other.file, "tiny-Q8_0.gguf");
    for model in ["several", "chosen", "other"] {
        let answer = cli.run(&["run", model, "-t", "0", "What is the capital of Japan?"]).await;
        assert_eq!(answer.ok().trim(), "The capital of Japan is Tokyo.", "{model}");
    }
}
