//! Requests that are refused before anything is fetched or written: the typed error, no row, no file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use fake_hub::{Fault, FaultKind, Gated, READER_TOKEN, RepoSpec, synthetic::Shape};
use millm_kit::Reason;
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{StartDownloadRequest, download::State},
};

use super::fixture::{FIXTURES, Fixture, Free, pull, tiny, with_token};

async fn refused(fixture: &Fixture, request: StartDownloadRequest, expected: Reason) -> String {
    let mut downloader = fixture.start().await;
    let error = downloader.pull(request).await.unwrap_err();
    assert_eq!(error.reason, expected, "{}", error.message);
    assert!(fixture.catalog.rows().is_empty());
    assert!(fixture.names("huggingface").is_empty());
    error.message
}

fn with_config(id: &str, change: impl Fn(&mut serde_json::Value)) -> RepoSpec {
    let mut config = Shape::of_mib(1, 1).config();
    change(&mut config);
    RepoSpec::new(id).file("config.json", config.to_string()).file("model.safetensors", "x")
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let fixture = Fixture::new([tiny("o/n")]);
    for repo in ["../x", "a/b/c", "a--b/c", "x.git", "http://h/a/b", "é/x"] {
        refused(&fixture, pull(repo, Quantization::Q4), Reason::InvalidRepoId).await;
    }
    refused(&fixture, pull("o/missing", Quantization::Q4), Reason::RepoNotFound).await;
    let mut request = pull("o/n", Quantization::Q4);
    request.quantization = 99;
    refused(&fixture, request.clone(), Reason::InvalidArgument).await;
    request.quantization = 0;
    request.handle = "a b".to_owned();
    refused(&fixture, request.clone(), Reason::InvalidArgument).await;
    request.source = None;
    refused(&fixture, request, Reason::InvalidArgument).await;
}

#[tokio::test]
async fn gated_and_private_repositories_are_refused() {
    let fixture =
        Fixture::new([tiny("o/n").gated(Gated::Manual).access("hf_good"), tiny("o/private").private()]);
    let request = || pull("o/n", Quantization::Native);
    refused(&fixture, request(), Reason::GatedModelNoToken).await;
    let message = refused(&fixture, with_token(request(), READER_TOKEN), Reason::GatedModelNoAccess).await;
    assert!(message.contains(fixture.hub.url()), "{message}");
    let message = refused(&fixture, with_token(request(), "hf_wrong"), Reason::InvalidHfToken).await;
    assert!(!message.contains("hf_wrong"));
    refused(&fixture, pull("o/private", Quantization::Q4), Reason::RepoNotFound).await;
    fixture.start().await.fetch(with_token(request(), "hf_good")).await;
    assert_eq!(files_with(&fixture.models(), b"hf_good"), Vec::<PathBuf>::new());
    assert!(!format!("{:?}", fixture.catalog.rows()).contains("hf_good"));
}

fn files_with(folder: &Path, text: &[u8]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let holds = |path: &PathBuf| fs::read(path).unwrap().windows(text.len()).any(|window| window == text);
    let below = folders.iter().flat_map(|folder| files_with(folder, text));
    files.into_iter().filter(holds).chain(below).collect()
}

#[tokio::test]
async fn unsupported_and_unsafe_models_are_refused() {
    let strange =
        with_config("o/strange", |config| config["architectures"] = serde_json::json!(["MambaForCausalLM"]));
    let custom =
        with_config("o/custom", |config| config["auto_map"] = serde_json::json!({"AutoModel": "x.Y"}));
    let pickle = RepoSpec::new("o/pickle").file("config.json", "{}").file("pytorch_model.bin", "x");
    let sneaky = tiny("o/sneaky").file("../../evil.safetensors", "x");
    let broken = RepoSpec::new("o/broken").file("config.json", "{ nope").file("model.safetensors", "x");
    let fixture = Fixture::new([strange, custom, pickle, sneaky, broken]);
    let check = async |repo: &str, reason, part: &str| {
        let message = refused(&fixture, pull(repo, Quantization::Q4), reason).await;
        assert!(message.contains(part), "{message}");
    };
    check("o/strange", Reason::UnsupportedArchitecture, "LlamaForCausalLM").await;
    check("o/custom", Reason::RemoteCodeRequired, "trust_remote_code").await;
    check("o/pickle", Reason::InvalidModelFile, "unsafe").await;
    check("o/sneaky", Reason::InvalidModelFile, "not a safe file name").await;
    check("o/broken", Reason::InvalidModelFile, "config.json").await;
    assert_eq!(fixture.bytes_sent(".safetensors"), 0);
}

#[tokio::test]
async fn a_full_disk_is_refused() {
    let enormous = Shape::enormous().repo("o/enormous", format!("{FIXTURES}/tiny-millm").as_ref()).unwrap();
    let mut fixture = Fixture::new([enormous, tiny("o/n")]);
    refused(&fixture, pull("o/enormous", Quantization::Q4), Reason::InsufficientDisk).await;
    fixture.disk = Some(Arc::new(Free(20 << 20)));
    let message = refused(&fixture, pull("o/n", Quantization::Native), Reason::InsufficientDisk).await;
    assert!(message.starts_with("Insufficient disk space. Need 0.02 GB, only 0.02 GB"), "{message}");
    fixture.disk = Some(Arc::new(Free(64 << 20)));
    fixture.start().await.fetch(pull("o/n", Quantization::Native)).await;
}

#[tokio::test]
async fn servers_that_are_no_hub_or_down_are_named() {
    let mut fixture = Fixture::new([tiny("o/n")]);
    fixture.settings.push(("MILLM_DOWNLOAD_RETRIES", "1".to_owned()));
    let id = fixture.hub.fault(Fault::new("/api/*", FaultKind::NotAHub));
    let message = refused(&fixture, pull("o/n", Quantization::Q4), Reason::ModelDownloadFailed).await;
    assert!(message.contains("not a Hugging Face hub"), "{message}");
    assert_eq!(fixture.hub.fault_uses(id), 1, "it is not retried");
    fixture.hub.clear_faults();
    fixture.hub.fault(Fault::new("*/resolve/*", FaultKind::NotAHub));
    refused(&fixture, pull("o/n", Quantization::Q4), Reason::ModelDownloadFailed).await;
    fixture.hub.take_down();
    let message = refused(&fixture, pull("o/n", Quantization::Q4), Reason::HubUnavailable).await;
    assert!(message.contains("127.0.0.1"), "{message}");
}

#[tokio::test]
async fn a_second_request_for_a_model_is_refused() {
    let fixture = Fixture::new([tiny("o/n")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    let again = downloader.pull(pull("O/N", Quantization::Native)).await.unwrap_err();
    assert_eq!(
        (again.reason, again.details["model_id"].clone()),
        (Reason::ModelAlreadyExists, id.to_string())
    );
    pause.release();
    assert_eq!(downloader.end_of(id).await.state(), State::Succeeded);
    let again = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap_err();
    assert_eq!(again.reason, Reason::ModelAlreadyExists);
    let other = downloader.fetch(pull("o/n", Quantization::Q2)).await;
    assert_ne!(other.model_id, id);
}
