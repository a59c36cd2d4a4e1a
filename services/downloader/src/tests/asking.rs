//! How the hub is asked: left alone while it fails, searched, and understood when it says no.

use fake_hub::{Fault, FaultKind, RepoSpec};
use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{
        FoundRepo, GetHubStatusRequest, HubStatus, PreviewModelRequest, SearchReposRequest,
        found_repo::Support, hub_status::State, search_repos_request::Sort,
    },
};
use serde_json::json;

use super::world::{Running, World, pull, tiny};

impl Running {
    async fn hub_status(&mut self) -> HubStatus {
        self.client.get_hub_status(GetHubStatusRequest {}).await.unwrap().into_inner()
    }

    async fn refusal(&mut self, repo: &str) -> ServiceError {
        self.pull(pull(repo, Quantization::Q4)).await.unwrap_err()
    }

    async fn search(&mut self, request: SearchReposRequest) -> Result<Vec<FoundRepo>, ServiceError> {
        Ok(self.client.search_repos(request).await?.into_inner().repos)
    }
}

const fn status(code: u16) -> FaultKind {
    FaultKind::Status { code, retry_after: None, rate_limit_seconds: None }
}

fn world(pause: &str) -> World {
    let mut world = World::new([tiny("o/n")]);
    world.settings.push(("MILLM_DOWNLOAD_RETRIES", "0".to_owned()));
    world.settings.push(("MILLM_HUB_PAUSE", pause.to_owned()));
    world
}

#[tokio::test]
async fn a_hub_that_keeps_failing_is_left_alone() {
    let world = world("3600");
    let mut downloader = world.start().await;
    world.hub.fault(Fault::new("/api/*", status(503)));
    for failures in 1..=5 {
        assert_eq!(downloader.refusal("o/n").await.reason, Reason::ModelDownloadFailed);
        assert_eq!(downloader.hub_status().await.consecutive_failures, failures);
    }
    let asked = world.hub.log().len();
    let refused = downloader.refusal("o/n").await;
    assert_eq!(refused.reason, Reason::HubUnavailable);
    assert_eq!(refused.message, "127.0.0.1 is not answering; next try in 1 h 0 min.");
    assert!(refused.retry_after.is_some_and(|wait| wait.as_secs() > 3500));
    assert_eq!(world.hub.log().len(), asked, "nobody asked");
    let status = downloader.hub_status().await;
    assert_eq!((status.state(), status.host.as_str()), (State::Open, "127.0.0.1"));
    assert!(status.next_try_time.is_some() && status.last_error.contains("503"), "{status:?}");
}

#[tokio::test]
async fn one_request_tries_for_all() {
    let world = world("0");
    let mut downloader = world.start().await;
    world.hub.fault(Fault::new("/api/*", status(503)).times(6));
    for _ in 0..5 {
        downloader.refusal("o/n").await;
    }
    assert_eq!(downloader.hub_status().await.state(), State::HalfOpen);
    assert_eq!(downloader.refusal("o/n").await.reason, Reason::ModelDownloadFailed);
    assert_eq!(downloader.hub_status().await.consecutive_failures, 6);
    downloader.fetch(pull("o/n", Quantization::Native)).await;
    let status = downloader.hub_status().await;
    assert_eq!((status.state(), status.consecutive_failures), (State::Closed, 0));
    assert!(status.last_error_time.is_some(), "what was is remembered");
}

#[tokio::test]
async fn the_try_of_one_decides_for_those_who_come_meanwhile() {
    let world = world("0");
    let mut downloader = world.start().await;
    world.hub.fault(Fault::new("/api/*", status(503)).times(5));
    for _ in 0..5 {
        downloader.refusal("o/n").await;
    }
    let asked = world.hub.log().len();
    world.hub.fault(Fault::new("/api/*", FaultKind::Latency { ms: 200 }).times(1));
    let search = || SearchReposRequest { query: "n".to_owned(), ..SearchReposRequest::default() };
    let (mut second, mut third) = (downloader.client.clone(), downloader.client.clone());
    let (first, second, third) = tokio::join!(
        downloader.client.search_repos(search()),
        second.search_repos(search()),
        third.search_repos(search())
    );
    for answer in [first, second, third] {
        assert_eq!(answer.unwrap().into_inner().repos.len(), 1);
    }
    let log = world.hub.log();
    let times: Vec<u64> = log[asked..].iter().map(|entry| entry.at_ms).collect();
    assert!(times.len() == 3 && times[1] >= times[0] + 200, "the others waited for the first: {times:?}");
}

#[tokio::test]
async fn a_body_that_falls_silent_holds_nobody() {
    let mut world = World::new([tiny("o/n")]);
    world.settings.push(("MILLM_DOWNLOAD_STALL_TIMEOUT", "0.2".to_owned()));
    let mut downloader = world.start().await;
    let stall = FaultKind::Stall { after: Some(10), for_ms: None };
    let fault = world.hub.fault(Fault::new("*/config.json", stall).times(1));
    let request = PreviewModelRequest { repo_id: "o/n".to_owned(), ..PreviewModelRequest::default() };
    assert!(downloader.client.preview_model(request).await.unwrap().into_inner().supported);
    assert_eq!(world.hub.fault_uses(fault), 1);
}

#[tokio::test]
async fn a_hub_that_says_no_is_well() {
    let world = world("3600");
    let mut downloader = world.start().await;
    for code in [401, 403, 404, 429] {
        world.hub.fault(Fault::new("/api/*", status(code)));
        for _ in 0..6 {
            downloader.refusal("o/n").await;
        }
        world.hub.clear_faults();
    }
    let status = downloader.hub_status().await;
    assert_eq!((status.state(), status.consecutive_failures), (State::Closed, 0));
}

#[tokio::test]
async fn what_is_asked_for_may_be_something_else() {
    let mut disabled = tiny("o/disabled");
    disabled.settings.disabled = true;
    let world = World::new([RepoSpec::new("o/rows").dataset().file("rows.csv", "text\n"), disabled]);
    let mut downloader = world.start().await;
    let error = downloader.refusal("o/rows").await;
    assert_eq!(error.reason, Reason::RepoNotFound);
    assert_eq!(error.message, "Model not found: 'o/rows' is a dataset, not a model.");
    assert!(downloader.refusal("o/none").await.message.contains("does not exist"));
    let error = downloader.refusal("o/disabled").await;
    assert!(error.message.contains("disabled"), "{error}");
}

#[tokio::test]
async fn repositories_are_found_by_name() {
    let popular = tiny("o/tiny-b").info("downloads", json!(9)).info("likes", json!(1));
    let gated = tiny("o/tiny-a").gated(fake_hub::Gated::Auto).info("downloads", json!(4));
    let strange = RepoSpec::new("p/tinymamba")
        .file("config.json", r#"{"architectures": ["MambaForCausalLM"], "model_type": "mamba"}"#)
        .file("model.safetensors", "x");
    let world = World::new([popular, gated, strange, RepoSpec::new("o/other"), tiny("tiny-without-owner")]);
    let mut downloader = world.start().await;
    let ask = |query: &str| SearchReposRequest { query: query.to_owned(), ..SearchReposRequest::default() };
    let request = SearchReposRequest { sort: Sort::Downloads.into(), ..ask("TINY") };
    let found = downloader.search(request).await.unwrap();
    let ids: Vec<_> = found.iter().map(|repo| repo.repo_id.as_str()).collect();
    assert_eq!(ids, ["o/tiny-b", "o/tiny-a", "p/tinymamba"]);
    assert_eq!((found[0].downloads, found[0].likes, found[0].gated), (9, 1, false));
    assert_eq!((found[1].gated, found[1].pipeline_tag.as_str()), (true, "text-generation"));
    assert_eq!((found[0].support(), found[2].support()), (Support::Supported, Support::Unsupported));
    assert!(found[0].last_modified_time.is_some());
    let limited = downloader.search(SearchReposRequest { limit: 1, ..ask("tiny") }).await.unwrap();
    assert_eq!(limited.len(), 1);
    let by_owner = SearchReposRequest { author: "p".to_owned(), ..ask("") };
    assert_eq!(downloader.search(by_owner).await.unwrap().len(), 1);
    assert_eq!(downloader.search(ask("nothing like it")).await.unwrap(), []);
    assert_eq!(downloader.search(ask(" ")).await.unwrap_err().reason, Reason::InvalidArgument);

    let asked = world.hub.log().len();
    world.hub.fault(Fault::new("/api/models", status(503)));
    let error = downloader.search(ask("tiny")).await.unwrap_err();
    assert_eq!(error.reason, Reason::HubUnavailable, "{error}");
    assert_eq!(world.hub.log().len(), asked + 1, "asked once");
}
