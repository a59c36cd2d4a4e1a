//! Bodies that break, lie, stall or never end.

use fake_hub::{Fault, FaultKind, RunningHub};
use millm_kit::Reason;
use millm_proto::catalog::v1::{Quantization, model};

use serde_json::json;

use super::{FILE, TINY, WEIGHTS, arrives, arrives_at, from, on_weights};
use crate::harness::{
    LOOKED_AT, ON_THE_LINE, Server, assert_covered, bytes_sent, fetches, files_below, large, model_hub,
};

#[tokio::test]
async fn fault_01_a_cut_in_mid_body_is_resumed_by_range() {
    let hub = model_hub();
    let cut = hub.fault(on_weights(FaultKind::Cut { after: 1_000_000 }).times(3));
    let (model, seen) = arrives(&hub).await;
    assert_eq!(hub.fault_uses(cut), 3);
    let size = model.files.iter().find(|file| file.path == FILE).expect("listed").size_bytes as u64;
    let fetches = fetches(&hub, FILE);
    assert_covered(&fetches, size);
    let most = size + LOOKED_AT + ON_THE_LINE;
    assert!(bytes_sent(&fetches) <= most, "no byte was fetched twice: {fetches:?}");
    assert!(fetches.iter().any(|fetch| fetch.status == 206 && fetch.range_start() > 0), "{fetches:?}");
    assert!(seen.last().expect("a last word").retries >= 1);
}

#[tokio::test]
async fn fault_02_an_ignored_range_starts_again() {
    let hub = model_hub();
    let ignored = hub.fault(on_weights(FaultKind::IgnoreRange));
    let cut = hub.fault(on_weights(FaultKind::Cut { after: 1_000_000 }).times(1));
    let (model, _) = arrives(&hub).await;
    assert!(hub.fault_uses(ignored) >= 2);
    assert_eq!(hub.fault_uses(cut), 1);
    let fetches = fetches(&hub, FILE);
    assert!(fetches.iter().all(|fetch| fetch.status == 200), "{fetches:?}");
    let whole = fetches.iter().rfind(|fetch| fetch.complete).expect("one came whole");
    assert_eq!(
        whole.bytes_sent,
        model.files.iter().find(|f| f.path == FILE).expect("listed").size_bytes as u64
    );
}

#[tokio::test]
async fn fault_03_a_206_with_another_start_starts_again() {
    let hub = model_hub();
    hub.fault(on_weights(FaultKind::Cut { after: 1_000_000 }).times(1));
    let wrong = hub.fault(on_weights(FaultKind::WrongStart { before: 1000 }).skip(1).times(1));
    arrives(&hub).await;
    assert_eq!(hub.fault_uses(wrong), 1);
    let fetches = fetches(&hub, FILE);
    assert!(fetches.len() >= 3, "a cut, a wrong part, and what was of use: {fetches:?}");
}

#[tokio::test]
async fn fault_04_a_416_starts_again_once() {
    let hub = model_hub();
    hub.fault(on_weights(FaultKind::Cut { after: 1_000_000 }).times(1));
    let refused = hub.fault(on_weights(FaultKind::RangeNotSatisfiable).skip(1).times(1));
    arrives(&hub).await;
    assert_eq!(hub.fault_uses(refused), 1);

    let hub = model_hub();
    hub.fault(on_weights(FaultKind::Cut { after: 1_000_000 }).times(1));
    hub.fault(on_weights(FaultKind::RangeNotSatisfiable).skip(1));
    let server = Server::quick(&hub).await;
    let id = server.begin(TINY, Quantization::Native).await;
    assert_eq!(server.failed(id).await.reason, Reason::ModelDownloadFailed);
    let fetches = fetches(&hub, FILE);
    assert!(fetches.len() <= 16, "it is asked a few times, not forever: {fetches:?}");
}

#[tokio::test]
async fn fault_06_a_corrupt_body_of_the_right_length_is_never_published() {
    let hub = model_hub();
    let corrupt = hub.fault(on_weights(FaultKind::Corrupt { at: Some(3_000_000) }));
    let server = Server::quick(&hub).await;
    let id = server.begin(TINY, Quantization::Native).await;
    let error = server.failed(id).await;
    assert_eq!(error.reason, Reason::ChecksumMismatch, "{error}");
    assert!(error.message.contains(FILE), "{error}");
    assert_eq!(server.model(&id.to_string()).await.expect("its row").state(), model::State::Error);
    let shown = server.rest().get(&format!("/api/models/{id}")).await.data();
    assert_eq!((&shown["status"], &shown["error_code"]), (&json!("error"), &json!("CHECKSUM_MISMATCH")));
    assert_nothing_published(&server);
    let size = 7_348_736;
    let sent = bytes_sent(&fetches(&hub, FILE));
    assert!(sent <= 2 * size + LOOKED_AT, "it was fetched twice, not for ever: {sent}");
    assert!(hub.fault_uses(corrupt) >= 2);
    // Once the hub works again, the same row continues.
    hub.clear_faults();
    let (model, _) = arrives_at(&server, &hub).await;
    assert_eq!(model.id, id);
}

#[tokio::test]
async fn fault_06_damage_in_one_chunk_of_many_is_found() {
    let hub = crate::harness::hub(&[]);
    hub.add_repo(large(20)).expect("a repository");
    hub.fault(on_weights(FaultKind::Corrupt { at: Some(18_000_001) }));
    let server = Server::quick(&hub).await;
    let id = server.begin("acme/large", Quantization::Native).await;
    assert_eq!(server.failed(id).await.reason, Reason::ChecksumMismatch);
    assert_nothing_published(&server);
}

fn assert_nothing_published(server: &Server) {
    let models = server.models_folder().join("huggingface");
    let finished = |path: &std::path::PathBuf| !path.display().to_string().contains("/.incoming-");
    let left: Vec<_> = files_below(&models).into_iter().filter(finished).collect();
    assert!(left.iter().all(|path| path.to_string_lossy().ends_with(".lock")), "{left:?}");
}

#[tokio::test]
async fn fault_07_a_short_body_is_a_size_error() {
    survived(FaultKind::Short { by: 1000 }).await;
    let hub = model_hub();
    hub.fault(on_weights(FaultKind::Short { by: 1000 }));
    let server = Server::quick(&hub).await;
    // Each answer lacks its last 1000 bytes. The rest is requested until an answer has no bytes at all.
    let id = server.begin(TINY, Quantization::Native).await;
    assert_eq!(server.failed(id).await.reason, Reason::ModelDownloadFailed);
    assert_nothing_published(&server);
}

#[tokio::test]
async fn fault_07_an_endless_body_is_left_at_the_expected_size() {
    survived(FaultKind::Endless).await;
    let hub = model_hub();
    hub.fault(on_weights(FaultKind::Endless));
    let server = Server::quick(&hub).await;
    let error = server.refused(from(TINY), Quantization::Native).await;
    assert_eq!(error.reason, Reason::ModelDownloadFailed, "{error}");
    let sent = bytes_sent(&fetches(&hub, FILE));
    assert!(sent < 64 << 20, "{sent} bytes of an endless body were taken");
}

#[tokio::test]
async fn fault_08_a_stall_before_the_first_byte_is_noticed() {
    let seen = survived(FaultKind::Stall { after: None, for_ms: None }).await;
    assert!(seen.iter().any(|download| download.stalled), "{seen:?}");
}

#[tokio::test]
async fn fault_08_a_stall_in_mid_body_is_noticed() {
    let seen = survived(FaultKind::Stall { after: Some(1_000_000), for_ms: None }).await;
    assert!(seen.iter().any(|download| download.stalled), "{seen:?}");
}

#[tokio::test]
async fn fault_08_a_drip_is_noticed() {
    survived(FaultKind::Rate { bytes_per_second: 20 }).await;
}

/// Applies a fault to one request for the weights, and checks that the model arrives. Returns every state of the
/// download.
async fn survived(kind: FaultKind) -> Vec<millm_proto::downloader::v1::Download> {
    let hub: RunningHub = model_hub();
    let fault = Fault::new(WEIGHTS, kind).on(fake_hub::Host::Cdn).times(1);
    let id = hub.fault(fault.clone());
    let (_, seen) = arrives(&hub).await;
    assert_eq!(hub.fault_uses(id), 1, "{fault:?}");
    assert!(seen.last().expect("a last word").retries >= 1, "{fault:?}");
    seen
}
