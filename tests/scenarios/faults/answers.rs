//! Answers that are errors: which of them are retried, how often and when.

use std::time::{Duration, SystemTime};

use fake_hub::{Fault, FaultKind, Host, LogEntry};
use millm_kit::Reason;
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::HubSource;

use serde_json::json;

use super::{FILE, TINY, WEIGHTS, arrives, arrives_at, from, status};
use crate::harness::{Fixture, MEMBER, Published, Server, asked, fetches, hub, model_hub};

const INFO: &str = "/api/models/millm/tiny-millm/revision/main";

fn statuses(entries: &[LogEntry]) -> Vec<u16> {
    entries.iter().map(|entry| entry.status).collect()
}

/// Returns the milliseconds from each request to the next.
fn pauses(entries: &[LogEntry]) -> Vec<u64> {
    entries.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms).collect()
}

#[tokio::test]
async fn fault_09_errors_of_the_server_are_asked_again() {
    for code in [500, 502, 503] {
        let hub = model_hub();
        hub.fault(Fault::new(INFO, status(code)).times(2));
        hub.fault(Fault::new(WEIGHTS, status(code)).on(Host::Cdn).times(2));
        arrives(&hub).await;
        assert_eq!(statuses(&asked(&hub, INFO)), [code, code, 200], "the third answer was right");
        let refused = fetches(&hub, FILE).iter().filter(|fetch| fetch.status == code).count();
        assert_eq!(refused, 2);
    }
}

#[tokio::test]
async fn fault_09_a_server_that_stays_in_error_is_asked_four_times() {
    let hub = model_hub();
    hub.fault(Fault::new(INFO, status(503)));
    let server = Server::quick(&hub).await;
    let error = server.refused(from(TINY), Quantization::Native).await;
    assert!(matches!(error.reason, Reason::ModelDownloadFailed | Reason::HubUnavailable), "{error}");
    let tries = asked(&hub, INFO);
    assert_eq!(statuses(&tries), [503; 4]);
    // Jitter only lengthens pauses, so these are their minimum.
    for (pause, least) in pauses(&tries).into_iter().zip([250, 500, 1000]) {
        assert!(pause >= least, "{pause} ms, {least} at least: {tries:?}");
    }
}

#[tokio::test]
async fn fault_09_a_file_server_that_stays_in_error_fails_the_download() {
    let hub = model_hub();
    hub.fault(Fault::new(WEIGHTS, status(503)).on(Host::Cdn));
    let server = Server::quick(&hub).await;
    let error = server.refused(from(TINY), Quantization::Native).await;
    assert!(matches!(error.reason, Reason::ModelDownloadFailed | Reason::HubUnavailable), "{error}");
    let tries = fetches(&hub, FILE);
    assert!((4..=16).contains(&tries.len()), "{tries:?}");
}

#[tokio::test]
async fn fault_10_what_a_rate_limit_asks_for_is_waited() {
    let limited = |retry_after: Option<String>, rate_limit_seconds| FaultKind::Status {
        code: 429,
        retry_after,
        rate_limit_seconds,
    };
    for kind in [limited(None, Some(2)), limited(Some("2".to_owned()), None)] {
        let hub = model_hub();
        hub.fault(Fault::new(INFO, kind.clone()).times(1));
        arrives(&hub).await;
        let tries = asked(&hub, INFO);
        assert_eq!(statuses(&tries), [429, 200], "{kind:?}");
        assert!(pauses(&tries)[0] >= 2000, "{kind:?}: {tries:?}");
    }
    let hub = model_hub();
    let now = SystemTime::now();
    // A date has whole seconds only.
    let until = httpdate::fmt_http_date(now + Duration::from_secs(4));
    hub.fault(Fault::new(INFO, limited(Some(until), None)).times(1));
    arrives(&hub).await;
    let tries = asked(&hub, INFO);
    assert_eq!(statuses(&tries), [429, 200]);
    assert!(tries[1].at_ms >= 2900, "{tries:?}");
}

#[tokio::test]
async fn fault_12_refusals_are_not_asked_again() {
    let hub = hub(&[Fixture::Tiny, Fixture::Gated]);
    let server = Server::quick(&hub).await;
    let as_of = |repo: &str, revision: &str, token: &str| HubSource {
        revision: revision.to_owned(),
        hf_token: token.to_owned(),
        ..from(repo)
    };
    for (source, reason, path, code) in [
        (as_of("acme/gated", "", ""), Reason::GatedModelNoToken, "config.json", 401),
        (as_of("acme/gated", "", "hf_wrong"), Reason::InvalidHfToken, "revision/main", 401),
        (as_of("acme/gated", "", fake_hub::READER_TOKEN), Reason::GatedModelNoAccess, "config.json", 403),
        (as_of("acme/none", "", ""), Reason::RepoNotFound, "revision/main", 401),
        (as_of("acme/none", "", MEMBER), Reason::RepoNotFound, "revision/main", 404),
        (as_of(TINY, "v9", ""), Reason::NotFound, "revision/v9", 404),
    ] {
        hub.clear_log();
        let error = server.refused(source.clone(), Quantization::Q4).await;
        assert_eq!(error.reason, reason, "{source:?}: {error}");
        let log = hub.log();
        let refused = |path: &str| log.iter().filter(|e| e.status >= 400 && e.path.ends_with(path)).count();
        // Further requests may find out the reason, but none is repeated.
        assert!(
            log.iter().all(|entry| entry.status < 400 || refused(&entry.path) == 1),
            "{source:?}: {log:?}"
        );
        let said = log.iter().find(|entry| entry.status >= 400).expect("a refusal");
        assert!(said.path.ends_with(path) && said.status == code, "{source:?}: {log:?}");
    }
    // These answers do not count as failures of the hub, whatever their number.
    arrives_at(&server, &hub).await;
}

#[tokio::test]
async fn fault_16_what_is_no_hub_is_called_so() {
    for (path, most) in [("/api/models/*", 2), ("*/config.json", 2), (WEIGHTS, 4), ("*", 2)] {
        let hub = model_hub();
        hub.fault(Fault::new(path, FaultKind::NotAHub).on(Host::Hub));
        let server = Server::quick(&hub).await;
        let error = server.refused(from(TINY), Quantization::Native).await;
        assert_eq!(error.reason, Reason::ModelDownloadFailed, "{path}: {error}");
        assert!(error.message.contains("127.0.0.1 is not a Hugging Face hub"), "{path}: {error}");
        let strange = hub.faults()[0].uses;
        assert!((1..=most).contains(&strange), "{path}: asked {strange} times");
    }
}

#[tokio::test]
async fn fault_17_without_a_hub_what_is_here_is_used() {
    let mut hub = model_hub();
    let server = Server::quick(&hub).await;
    let published = Published::of(hub.url(), TINY).await;
    let model = server.pull(TINY, Quantization::Native).await;
    hub.take_down();
    server.load(&model.handle).await;
    let answer = server.rest().chat(&model.handle, "What is the capital of Japan?").await;
    assert_eq!(answer, "The capital of Japan is Tokyo.");
    published.assert_kept(&model);
}

#[tokio::test]
async fn fault_17_a_hub_that_is_gone_is_named() {
    let mut hub = model_hub();
    let server = Server::quick(&hub).await;
    hub.take_down();
    let error = server.refused(from(TINY), Quantization::Q4).await;
    assert_eq!(error.reason, Reason::HubUnavailable, "{error}");
    assert!(error.message.starts_with("127.0.0.1 is not answering"), "{error}");
    let answer = server.rest().post("/api/models/preview", &json!({ "repo_id": TINY })).await;
    assert_eq!((answer.status, answer.code()), (502, "HUB_UNAVAILABLE"), "{}", answer.text);
    // The same in the middle of a download. Once the hub is back, the same row continues.
    hub.bring_up().expect("its ports are still free");
    let pause = hub.pause_at(WEIGHTS, 2 << 20);
    let id = server.begin_when_back(TINY, Quantization::Native).await;
    crate::harness::within("the first bytes", pause.reached()).await;
    hub.take_down();
    let error = server.failed(id).await;
    assert_eq!(error.reason, Reason::HubUnavailable, "{error}");
    assert!(error.message.contains("127.0.0.1"), "{error}");
    hub.bring_up().expect("its ports are still free");
    pause.release();
    let (model, _) = arrives_at(&server, &hub).await;
    assert_eq!(model.id, id);
}
