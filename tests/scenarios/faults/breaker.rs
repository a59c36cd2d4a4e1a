//! The circuit breaker: a hub that keeps failing gets no calls for a while, and then one request tries for all.

use fake_hub::{Fault, RunningHub};
use millm_kit::Reason;
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::hub_status::State;
use millm_proto::downloader::v1::{GetHubStatusRequest, HubStatus};
use serde_json::json;

use super::{TINY, arrives_at, from, status};
use crate::harness::{Layout, Server, model_hub, quick};

/// The failures in a row that open the circuit breaker.
const ENOUGH: u32 = 5;

/// Starts a server without retries, so that each request is one attempt.
async fn server(layout: Layout, hub: &RunningHub, pause: &str) -> Server {
    let options = quick(hub.url()).set("MILLM_DOWNLOAD_RETRIES", "0").set("MILLM_HUB_PAUSE", pause);
    Server::start(layout, options).await
}

async fn health(server: &Server) -> HubStatus {
    server.downloader().get_hub_status(GetHubStatusRequest {}).await.expect("it asks nobody").into_inner()
}

async fn reason(server: &Server) -> Reason {
    server.refused(from(TINY), Quantization::Native).await.reason
}

#[tokio::test]
async fn fault_11_a_hub_that_keeps_failing_is_left_alone() {
    for layout in [Layout::OneProcess, Layout::FourProcesses] {
        let hub = model_hub();
        hub.fault(Fault::new("/api/models/*", status(503)));
        let server = server(layout, &hub, "3600").await;
        for _ in 0..ENOUGH {
            assert_eq!(health(&server).await.state(), State::Closed);
            assert_eq!(reason(&server).await, Reason::ModelDownloadFailed);
        }
        let asked = hub.log().len();
        let refused = server.cli().run(&["pull", TINY, "--json"]).await;
        assert_eq!((refused.code, &refused.json()["error"]["code"]), (1, &json!("HUB_UNAVAILABLE")));
        assert!(refused.stderr.contains("127.0.0.1 is not answering; next try in "), "{refused:?}");
        let answer = server.rest().get("/api/search?q=tiny").await;
        assert_eq!((answer.status, answer.code()), (502, "HUB_UNAVAILABLE"), "{}", answer.text);
        assert_eq!(hub.log().len(), asked, "it was not asked");
        let shown = server.rest().get("/api/system").await.data();
        let (state, failures) = (&shown["hub"]["state"], &shown["hub"]["consecutive_failures"]);
        assert_eq!((state, failures), (&json!("open"), &json!(ENOUGH)));
        assert!(shown["hub"]["next_try_at"].is_string(), "{shown}");
        let health = health(&server).await;
        assert_eq!((health.state(), health.host.as_str()), (State::Open, "127.0.0.1"));
        assert!(health.last_error.contains("503"), "{health:?}");
    }
}

#[tokio::test]
async fn fault_11_one_request_tries_for_all() {
    let hub = model_hub();
    hub.fault(Fault::new("/api/models/*", status(503)).times(ENOUGH + 1));
    let server = server(Layout::OneProcess, &hub, "0").await;
    for _ in 0..ENOUGH {
        reason(&server).await;
    }
    assert_eq!(health(&server).await.state(), State::HalfOpen);
    assert_eq!(reason(&server).await, Reason::ModelDownloadFailed, "the try failed");
    assert_eq!(health(&server).await.consecutive_failures, ENOUGH + 1);
    arrives_at(&server, &hub).await;
    let health = health(&server).await;
    assert_eq!((health.state(), health.consecutive_failures), (State::Closed, 0));
}

#[tokio::test]
async fn fault_12_refusals_leave_the_breaker_untouched() {
    let hub = model_hub();
    let server = server(Layout::OneProcess, &hub, "3600").await;
    for code in [401, 403, 404, 429] {
        let fault = hub.fault(Fault::new("/api/models/*", status(code)));
        for _ in 0..=ENOUGH {
            reason(&server).await;
        }
        hub.disarm(fault);
    }
    let health = health(&server).await;
    assert_eq!((health.state(), health.consecutive_failures), (State::Closed, 0));
    arrives_at(&server, &hub).await;
}
