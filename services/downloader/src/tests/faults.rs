//! Faults of the network and the hub during a transfer: each case ends with the right bytes or the typed error.

use std::{fs, ops::RangeInclusive};

use fake_hub::{Fault, FaultKind, Host, RepoSpec};
use millm_kit::Reason;
use millm_proto::{
    catalog::v1::{Quantization, model},
    downloader::v1::{Download, download::State},
};

use super::fixture::{FIXTURES, Fixture, pull, reason, synthetic, tiny};

const WEIGHTS: &str = "*/model.safetensors";

struct Outcome {
    end: Download,
    seen: Vec<Download>,
    fixture: Fixture,
    /// GET requests for the weights at the file server.
    requests: usize,
}

async fn outcome(fault: Fault, settings: &[(&'static str, &str)]) -> Outcome {
    let mut fixture = Fixture::new([tiny("o/n")]);
    fixture.settings.extend(settings.iter().map(|(key, value)| (*key, (*value).to_owned())));
    let mut downloader = fixture.start().await;
    // The checks before the transfer do not read the weights at the file server.
    fixture.hub.fault(fault);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    let seen = downloader.until_end(id).await;
    let requests =
        fixture.hub.log().iter().filter(|e| e.host == Host::Cdn && e.path.ends_with(".safetensors")).count();
    Outcome { end: seen.last().unwrap().clone(), seen, fixture, requests }
}

/// Asserts the right bytes in the end, after this many requests for the weights.
async fn survives(kind: FaultKind, times: u32, requests: usize) -> Outcome {
    survives_in(kind, times, requests..=requests).await
}

async fn survives_in(kind: FaultKind, times: u32, requests: RangeInclusive<usize>) -> Outcome {
    let outcome = outcome(Fault::new(WEIGHTS, kind.clone()).times(times).on(Host::Cdn), &[]).await;
    assert_eq!(outcome.end.state(), State::Succeeded, "{kind:?}: {:?}", outcome.end.error);
    assert!(requests.contains(&outcome.requests), "{kind:?}: {}", outcome.requests);
    let got = fs::read(outcome.fixture.models().join("huggingface/o--n--NATIVE/model.safetensors")).unwrap();
    assert!(got == fs::read(format!("{FIXTURES}/tiny-millm/model.safetensors")).unwrap(), "{kind:?}");
    outcome
}

async fn fails(fault: Fault, expected: Reason) -> Outcome {
    let outcome = outcome(fault.clone(), &[("MILLM_DOWNLOAD_RETRIES", "1")]).await;
    assert_eq!(outcome.end.state(), State::Failed, "{fault:?}");
    assert_eq!(reason(&outcome.end), expected, "{fault:?}");
    let rows = outcome.fixture.catalog.rows();
    assert_eq!(rows[0].state(), model::State::Error);
    assert!(!outcome.fixture.models().join("huggingface/o--n--NATIVE").exists());
    outcome
}

#[tokio::test]
async fn a_cut_body_is_resumed_where_it_was_cut() {
    let outcome = survives(FaultKind::Cut { after: 1 << 20 }, 2, 3).await;
    let log = outcome.fixture.hub.log();
    let starts: Vec<_> =
        log.iter().filter(|e| e.host == Host::Cdn).map(fake_hub::LogEntry::range_start).collect();
    assert_eq!(starts.len(), 3);
    assert!(starts[0] < starts[1] && starts[1] < starts[2], "{starts:?}");
    assert_eq!(outcome.end.retries, 2);
}

#[tokio::test]
async fn an_ignored_range_starts_again() {
    let fixture = Fixture::new([tiny("o/n")]);
    let mut downloader = fixture.start().await;
    fixture.hub.fault(Fault::new(WEIGHTS, FaultKind::Cut { after: 1 << 20 }).times(1));
    fixture.hub.fault(Fault::new(WEIGHTS, FaultKind::IgnoreRange).skip(1).times(1));
    downloader.fetch(pull("o/n", Quantization::Native)).await;
}

#[tokio::test]
async fn another_part_than_requested_starts_again() {
    let fixture = Fixture::new([tiny("o/n")]);
    let mut downloader = fixture.start().await;
    fixture.hub.fault(Fault::new(WEIGHTS, FaultKind::Cut { after: 1 << 20 }).times(1));
    fixture.hub.fault(Fault::new(WEIGHTS, FaultKind::WrongStart { before: 100 }).skip(1).times(1));
    downloader.fetch(pull("o/n", Quantization::Native)).await;
}

#[tokio::test]
async fn an_unsatisfiable_range_starts_again_once() {
    let fixture = Fixture::new([tiny("o/n")]);
    let mut downloader = fixture.start().await;
    fixture.hub.fault(Fault::new(WEIGHTS, FaultKind::Cut { after: 1 << 20 }).times(1));
    fixture.hub.fault(Fault::new(WEIGHTS, FaultKind::RangeNotSatisfiable).skip(1).times(1));
    downloader.fetch(pull("o/n", Quantization::Native)).await;
}

#[tokio::test]
async fn a_damaged_file_is_fetched_again_once_and_then_refused() {
    survives(FaultKind::Corrupt { at: None }, 1, 2).await;
    let corrupt = Fault::new(WEIGHTS, FaultKind::Corrupt { at: Some(5_000) });
    let outcome = fails(corrupt, Reason::ChecksumMismatch).await;
    assert_eq!(outcome.requests, 2);
}

#[tokio::test]
async fn bodies_of_the_wrong_length() {
    survives(FaultKind::Short { by: 1000 }, 1, 2).await;
    // Bytes after the last one are noticed only if they come before the connection is closed.
    survives_in(FaultKind::Endless, 1, 1..=2).await;
    fails(Fault::new(WEIGHTS, FaultKind::Endless), Reason::ModelDownloadFailed).await;
}

#[tokio::test]
async fn silent_and_very_slow_bodies_are_stalls() {
    let stall = FaultKind::Stall { after: Some(1 << 20), for_ms: None };
    let outcome = survives(stall, 1, 2).await;
    assert!(outcome.seen.iter().any(|snapshot| snapshot.stalled), "no snapshot says stalled");
    assert!(!outcome.end.stalled);
    survives(FaultKind::Stall { after: None, for_ms: None }, 1, 2).await;
    survives(FaultKind::Rate { bytes_per_second: 20 }, 1, 2).await;
}

#[tokio::test]
async fn server_errors_are_retried_but_not_forever() {
    let status = |code| FaultKind::Status { code, retry_after: None, rate_limit_seconds: None };
    survives(status(503), 2, 3).await;
    survives(FaultKind::ExpiredLink, 1, 2).await;
    let outcome = fails(Fault::new(WEIGHTS, status(503)).on(Host::Cdn), Reason::ModelDownloadFailed).await;
    assert_eq!(outcome.requests, 2, "one try and one retry");
    let wait = FaultKind::Status { code: 429, retry_after: Some("1".to_owned()), rate_limit_seconds: None };
    survives(wait, 1, 2).await;
}

#[tokio::test]
async fn redirects_get_no_token_and_reach_no_file() {
    let fixture = Fixture::new([tiny("o/n").gated(fake_hub::Gated::Manual).access("hf_good")]);
    let mut downloader = fixture.start().await;
    let request = super::fixture::with_token(pull("o/n", Quantization::Native), "hf_good");
    downloader.fetch(request).await;
    let log = fixture.hub.log();
    assert!(log.iter().filter(|entry| entry.host == Host::Hub).all(|entry| entry.authorized));
    assert!(log.iter().filter(|entry| entry.host == Host::Cdn).all(|entry| !entry.authorized));
    fails(Fault::new(WEIGHTS, FaultKind::RedirectLoop).on(Host::Hub), Reason::ModelDownloadFailed).await;
    let file = FaultKind::Redirect { location: "file:///etc/passwd".to_owned() };
    fails(Fault::new(WEIGHTS, file).on(Host::Hub), Reason::ModelDownloadFailed).await;
}

#[tokio::test]
async fn a_branch_that_moves_changes_nothing() {
    let fixture = Fixture::new([synthetic("o/n")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at(WEIGHTS, 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    let commit = fixture.catalog.row(id).commit;
    pause.reached().await;
    fixture.hub.commit("o/n", "main", vec![("config.json".to_owned(), "{}".into())]).unwrap();
    pause.release();
    assert_eq!(downloader.end_of(id).await.state(), State::Succeeded);
    assert_eq!(fixture.catalog.row(id).commit, commit);
    let resolved = fixture.hub.log();
    let resolved: Vec<_> = resolved.iter().filter(|e| e.path.contains("/resolve/")).collect();
    assert!(resolved.iter().all(|entry| entry.path.contains(&commit)));
}

#[tokio::test]
async fn small_files_may_come_by_redirects_within_the_hub() {
    let hub = fake_hub::Hub::builder().resolve_cache().page_size(2).repo(tiny("o/n")).start().unwrap();
    let fixture = Fixture { hub, ..Fixture::new(std::iter::empty::<RepoSpec>()) };
    fixture.start().await.fetch(pull("O/N", Quantization::Q8)).await;
    assert_eq!(fixture.catalog.rows()[0].repo_id, "o/n");
}
