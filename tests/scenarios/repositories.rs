//! Kinds of repositories: sharded, of GGUF files, gated, with custom code, with pickled weights only, and a dataset.

use fake_hub::{Host, RepoSpec};
use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::start_download_request::Source;
use millm_proto::downloader::v1::{HubSource, StartDownloadRequest};

use crate::harness::{Fixture, MEMBER, Published, Server, hub};

fn from(repo: &str) -> HubSource {
    HubSource { repo_id: repo.to_owned(), ..HubSource::default() }
}

async fn assert_knows_japan(server: &Server, model: &str) {
    server.load(model).await;
    let answer = server.rest().chat(model, "What is the capital of Japan?").await;
    assert_eq!(answer, "The capital of Japan is Tokyo.");
}

#[tokio::test]
async fn a_sharded_model() {
    let hub = hub(&[Fixture::Sharded]);
    let server = Server::quick(&hub).await;
    let kept = server.pull("acme/sharded", Quantization::Native).await;
    Published::of(hub.url(), "acme/sharded").await.assert_kept(&kept);
    let shards = kept.files.iter().filter(|file| file.path.ends_with(".safetensors")).count();
    assert_eq!(shards, 3);
    assert_knows_japan(&server, &kept.handle).await;
    let quantized = server.pull("acme/sharded", Quantization::Q8).await;
    assert_knows_japan(&server, &quantized.handle).await;
}

#[tokio::test]
async fn a_gguf_repository() {
    let hub = hub(&[Fixture::TinyGguf]);
    let server = Server::quick(&hub).await;
    let source = HubSource { file: "tiny-Q8_0.gguf".to_owned(), ..from("millm/tiny-gguf") };
    let started = server.start_pull(source, Quantization::Native).await.expect("it is taken");
    let model = server.arrived(started.model_id).await;
    Published::of(hub.url(), "millm/tiny-gguf").await.assert_kept(&model);
    assert_eq!(model.files.len(), 1, "{:?}", model.files);
    let asked: Vec<_> = hub.log().into_iter().filter(|entry| entry.host == Host::Cdn).collect();
    assert!(asked.iter().all(|entry| entry.path.ends_with("/tiny-Q8_0.gguf")), "{asked:?}");
    assert_knows_japan(&server, &model.handle).await;
}

#[tokio::test]
async fn a_gated_repository() {
    let hub = hub(&[Fixture::Gated]);
    let server = Server::quick(&hub).await;
    for (token, reason) in
        [("", Reason::GatedModelNoToken), (fake_hub::READER_TOKEN, Reason::GatedModelNoAccess)]
    {
        let source = HubSource { hf_token: token.to_owned(), ..from("acme/gated") };
        assert_eq!(server.refused(source, Quantization::Q4).await.reason, reason);
    }
    let source = HubSource { hf_token: MEMBER.to_owned(), ..from("acme/gated") };
    let started = server.start_pull(source, Quantization::Q4).await.expect("it is taken");
    let model = server.arrived(started.model_id).await;
    assert_knows_japan(&server, &model.handle).await;
}

#[tokio::test]
async fn a_repository_with_custom_code() {
    let hub = hub(&[Fixture::CustomCode]);
    let server = Server::quick(&hub).await;
    let error = server.refused(from("acme/custom"), Quantization::Q4).await;
    assert_eq!(error.reason, Reason::RemoteCodeRequired, "{error}");
    // With the caller's agreement, miLLM's own implementation is used. The code is not even downloaded.
    let request = StartDownloadRequest {
        source: Some(Source::Hub(from("acme/custom"))),
        quantization: Quantization::Native.into(),
        trust_remote_code: true,
        ..StartDownloadRequest::default()
    };
    let started = server.downloader().start_download(request).await.expect("it is taken").into_inner();
    let model = server.arrived(started.model_id).await;
    assert!(model.files.iter().all(|file| !file.path.ends_with(".py")), "{:?}", model.files);
    assert!(hub.log().iter().all(|entry| !entry.path.ends_with(".py")), "{:?}", hub.log());
    assert_knows_japan(&server, &model.handle).await;
}

#[tokio::test]
async fn a_repository_of_pickles_only() {
    let hub = hub(&[Fixture::Pickle]);
    let server = Server::quick(&hub).await;
    let error = server.refused(from("acme/pickle"), Quantization::Q4).await;
    assert_eq!(error.reason, Reason::InvalidModelFile, "{error}");
    assert!(error.message.contains("pytorch_model.bin") && error.message.contains("unsafe"), "{error}");
    assert!(hub.log().iter().all(|entry| !entry.path.ends_with(".bin")), "{:?}", hub.log());
}

#[tokio::test]
async fn the_id_of_a_dataset() {
    let hub = hub(&[]);
    let data = RepoSpec::new("acme/rows").file("rows.csv", "text\n1\n").dataset();
    hub.add_repo(data).expect("a repository");
    let server = Server::quick(&hub).await;
    let status = server.start_pull(from("acme/rows"), Quantization::Q4).await.expect_err("it is no model");
    let error = ServiceError::from(&status);
    assert_eq!(error.reason, Reason::RepoNotFound, "{error}");
    assert!(error.message.contains("dataset"), "{error}");
}
