//! Calls to the hub: the circuit breaker, searches, token checks, and the errors for refusals.

use fake_hub::{Fault, FaultKind, READER_TOKEN, RepoSpec, RunningHub};
use millm_kit::{Reason, Secret, ServiceError, Settings};
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{
        FoundRepo, GetHubStatusRequest, HubStatus, PreviewModelRequest, SearchReposRequest,
        found_repo::Support, hub_status::State, search_repos_request::Sort,
    },
};
use serde_json::json;

use super::fixture::{Fixture, Running, pull, tiny};
use crate::{hub::client::Hub, limits::HubLimits};

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

fn fixture(pause: &str) -> Fixture {
    let mut fixture = Fixture::new([tiny("o/n")]);
    fixture.settings.push(("MILLM_DOWNLOAD_RETRIES", "0".to_owned()));
    fixture.settings.push(("MILLM_HUB_PAUSE", pause.to_owned()));
    fixture
}

#[tokio::test]
async fn a_failing_hub_is_not_called() {
    let fixture = fixture("3600");
    let mut downloader = fixture.start().await;
    fixture.hub.fault(Fault::new("/api/*", status(503)));
    for failures in 1..=5 {
        assert_eq!(downloader.refusal("o/n").await.reason, Reason::ModelDownloadFailed);
        assert_eq!(downloader.hub_status().await.consecutive_failures, failures);
    }
    let asked = fixture.hub.log().len();
    let refused = downloader.refusal("o/n").await;
    assert_eq!(refused.reason, Reason::HubUnavailable);
    assert_eq!(refused.message, "127.0.0.1 is not answering; next try in 1 h 0 min.");
    assert!(refused.retry_after.is_some_and(|wait| wait.as_secs() > 3500));
    assert_eq!(fixture.hub.log().len(), asked, "the hub was not called");
    let status = downloader.hub_status().await;
    assert_eq!((status.state(), status.host.as_str()), (State::Open, "127.0.0.1"));
    assert!(status.next_try_time.is_some() && status.last_error.contains("503"), "{status:?}");
}

#[tokio::test]
async fn one_request_probes_for_all() {
    let fixture = fixture("0");
    let mut downloader = fixture.start().await;
    fixture.hub.fault(Fault::new("/api/*", status(503)).times(6));
    for _ in 0..5 {
        downloader.refusal("o/n").await;
    }
    assert_eq!(downloader.hub_status().await.state(), State::HalfOpen);
    assert_eq!(downloader.refusal("o/n").await.reason, Reason::ModelDownloadFailed);
    assert_eq!(downloader.hub_status().await.consecutive_failures, 6);
    downloader.fetch(pull("o/n", Quantization::Native)).await;
    let status = downloader.hub_status().await;
    assert_eq!((status.state(), status.consecutive_failures), (State::Closed, 0));
    assert!(status.last_error_time.is_some(), "the last error is remembered");
}

#[tokio::test]
async fn concurrent_requests_wait_for_the_probe() {
    let fixture = fixture("0");
    let mut downloader = fixture.start().await;
    fixture.hub.fault(Fault::new("/api/*", status(503)).times(5));
    for _ in 0..5 {
        downloader.refusal("o/n").await;
    }
    let asked = fixture.hub.log().len();
    fixture.hub.fault(Fault::new("/api/*", FaultKind::Latency { ms: 200 }).times(1));
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
    let log = fixture.hub.log();
    let times: Vec<u64> = log[asked..].iter().map(|entry| entry.at_ms).collect();
    assert!(times.len() == 3 && times[1] >= times[0] + 200, "the others waited for the first: {times:?}");
}

#[tokio::test]
async fn a_body_that_stops_is_read_again() {
    let mut fixture = Fixture::new([tiny("o/n")]);
    fixture.settings.push(("MILLM_DOWNLOAD_STALL_TIMEOUT", "0.2".to_owned()));
    let mut downloader = fixture.start().await;
    let stall = FaultKind::Stall { after: Some(10), for_ms: None };
    let fault = fixture.hub.fault(Fault::new("*/config.json", stall).times(1));
    let request = PreviewModelRequest { repo_id: "o/n".to_owned(), ..PreviewModelRequest::default() };
    assert!(downloader.client.preview_model(request).await.unwrap().into_inner().supported);
    assert_eq!(fixture.hub.fault_uses(fault), 1);
}

#[tokio::test]
async fn refusals_do_not_open_the_breaker() {
    let fixture = fixture("3600");
    let mut downloader = fixture.start().await;
    for code in [401, 403, 404, 429] {
        fixture.hub.fault(Fault::new("/api/*", status(code)));
        for _ in 0..6 {
            downloader.refusal("o/n").await;
        }
        fixture.hub.clear_faults();
    }
    let status = downloader.hub_status().await;
    assert_eq!((status.state(), status.consecutive_failures), (State::Closed, 0));
}

#[tokio::test]
async fn datasets_and_disabled_repositories_are_named() {
    let mut disabled = tiny("o/disabled");
    disabled.settings.disabled = true;
    let fixture = Fixture::new([RepoSpec::new("o/rows").dataset().file("rows.csv", "text\n"), disabled]);
    let mut downloader = fixture.start().await;
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
    let fixture =
        Fixture::new([popular, gated, strange, RepoSpec::new("o/other"), tiny("tiny-without-owner")]);
    let mut downloader = fixture.start().await;
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

    let asked = fixture.hub.log().len();
    fixture.hub.fault(Fault::new("/api/models", status(503)));
    let error = downloader.search(ask("tiny")).await.unwrap_err();
    assert_eq!(error.reason, Reason::HubUnavailable, "{error}");
    assert_eq!(fixture.hub.log().len(), asked + 1, "asked once");
}

fn client(hub: &RunningHub) -> Hub {
    let settings = Settings::load(None, |_| None, &[]).unwrap();
    Hub::new(&hub.url().parse().unwrap(), HubLimits::new(&settings)).unwrap()
}

fn calls(hub: &RunningHub) -> usize {
    hub.log().iter().filter(|entry| entry.path == "/api/whoami-v2").count()
}

#[tokio::test]
async fn a_token_is_checked_once() {
    let server = fake_hub::Hub::builder().repo(RepoSpec::new("o/n")).start().unwrap();
    let hub = client(&server);
    let (good, bad) = (Secret::new(READER_TOKEN).unwrap(), Secret::new("hf_wrong").unwrap());
    for _ in 0..3 {
        let (first, second) = tokio::join!(hub.check_token(&good), hub.check_token(&good));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(hub.check_token(&bad).await.unwrap_err().reason, Reason::InvalidHfToken);
    }
    assert_eq!(calls(&server), 2);
    let remembered = format!("{hub:?}");
    assert!(!remembered.contains("hf_"), "{remembered}");
}

#[tokio::test]
async fn an_answer_that_says_nothing_refuses_no_token() {
    let server = fake_hub::Hub::builder().repo(RepoSpec::new("o/n")).start().unwrap();
    let hub = client(&server);
    let kind = FaultKind::Status { code: 429, retry_after: Some("60".to_owned()), rate_limit_seconds: None };
    server.fault(Fault::new("/api/whoami-v2", kind));
    let token = Secret::new("hf_wrong").unwrap();
    assert!(hub.check_token(&token).await.is_ok());
    assert!(hub.check_token(&token).await.is_ok());
    assert_eq!(calls(&server), 1, "a rate limit is not asked against");
}
