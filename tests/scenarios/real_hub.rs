//! Behaviour with a real hub as well as with the fake one. Nothing here needs the fake hub's faults or log. Variables
//! name another hub and its models:
//!
//! ```text
//! MILLM_HUB=https://huggingface.co MILLM_REPO=HuggingFaceTB/SmolLM2-135M-Instruct \
//!     MILLM_GATED_REPO=google/gemma-2-2b cargo nextest run --workspace -E 'test(real_hub)'
//! ```

use millm_kit::Reason;
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::{HubSource, PreviewModelRequest};

use fake_hub::RunningHub;

use crate::harness::{Fixture, Layout, Options, Published, Server, hub, is_final};

/// The hub that the environment names, or a fake one.
struct RealHub {
    url: String,
    /// A small public model.
    repo: String,
    gated: String,
    _fake: Option<RunningHub>,
}

impl RealHub {
    fn start() -> Self {
        let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let fake = std::env::var("MILLM_HUB").is_err().then(|| hub(&[Fixture::Tiny, Fixture::Gated]));
        Self {
            url: variable("MILLM_HUB", fake.as_ref().map_or("", |hub| hub.url())),
            repo: variable("MILLM_REPO", "millm/tiny-millm"),
            gated: variable("MILLM_GATED_REPO", "acme/gated"),
            _fake: fake,
        }
    }

    async fn server(&self) -> Server {
        Server::start(Layout::OneProcess, Options::with_hub(&self.url)).await
    }
}

fn from(repo: &str) -> HubSource {
    HubSource { repo_id: repo.to_owned(), ..HubSource::default() }
}

#[tokio::test]
async fn a_model_arrives_byte_for_byte() {
    let hub = RealHub::start();
    let server = hub.server().await;
    let model = server.pull(&hub.repo, Quantization::Native).await;
    Published::of(&hub.url, &hub.repo).await.assert_kept(&model);
    assert_eq!(model.commit.len(), 40);
}

#[tokio::test]
async fn a_model_is_quantized_and_answers() {
    let hub = RealHub::start();
    let server = hub.server().await;
    let model = server.pull(&hub.repo, Quantization::Q8).await;
    server.load(&model.handle).await;
    assert!(!server.rest().chat(&model.handle, "What is the capital of Japan?").await.is_empty());
}

#[tokio::test]
async fn a_download_goes_on_after_a_kill() {
    let hub = RealHub::start();
    let mut server = hub.server().await;
    let published = Published::of(&hub.url, &hub.repo).await;
    let id = server.begin(&hub.repo, Quantization::Native).await;
    let third = |total: i64, bytes: i64| total > 0 && bytes >= total / 3;
    server.watch_until(id, |seen| is_final(seen) || third(seen.total_bytes, seen.downloaded_bytes)).await;
    server.kill_all().await;
    server.restart_all().await;
    published.assert_kept(&server.arrived(id).await);
}

#[tokio::test]
async fn a_preview_says_what_a_download_brings() {
    let hub = RealHub::start();
    let server = hub.server().await;
    let request = PreviewModelRequest { repo_id: hub.repo.clone(), ..PreviewModelRequest::default() };
    let preview = server.downloader().preview_model(request).await.expect("a preview").into_inner();
    assert!(preview.supported, "{preview:?}");
    let model = server.pull(&hub.repo, Quantization::Native).await;
    assert_eq!(preview.commit, model.commit);
    assert_eq!(preview.parameter_count, model.parameter_count);
    assert_eq!(preview.download_size_bytes, model.disk_size_bytes);
}

#[tokio::test]
async fn refusals_have_their_reasons() {
    let hub = RealHub::start();
    let server = hub.server().await;
    let gated = server.refused(from(&hub.gated), Quantization::Q4).await;
    assert_eq!(gated.reason, Reason::GatedModelNoToken, "{gated}");
    let missing = server.refused(from("millm/there-is-no-such-model"), Quantization::Q4).await;
    assert_eq!(missing.reason, Reason::RepoNotFound, "{missing}");
    let revision = HubSource { revision: "no-such-branch".to_owned(), ..from(&hub.repo) };
    let unknown = server.refused(revision, Quantization::Q4).await;
    assert_eq!(unknown.reason, Reason::NotFound, "{unknown}");
}
