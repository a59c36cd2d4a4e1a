//! What is seen from outside.

use millm_proto::runtime::v1::{GetStatusRequest, LoadState, WatchStatusRequest};

use super::bench::Bench;

#[tokio::test]
async fn the_status_has_the_host_and_nothing_loaded() {
    let bench = Bench::start(&[]).await;
    let status = bench.client.clone().get_status(GetStatusRequest {}).await.unwrap().into_inner();
    let cpu = &status.devices[0];
    assert_eq!(cpu.id, "cpu");
    assert!(!cpu.name.is_empty() && cpu.total_bytes > cpu.free_bytes && cpu.free_bytes > 0);
    assert!(status.process_memory_bytes > 0 && status.models.is_empty());
}

#[tokio::test]
async fn watching_shows_a_load_come_and_go_and_ends_with_the_server() {
    let bench = Bench::start(&[]).await;
    let mut statuses = bench.client.clone().watch_status(WatchStatusRequest {}).await.unwrap().into_inner();
    assert!(statuses.message().await.unwrap().unwrap().models.is_empty());
    bench.load("tiny").await;
    let loaded = statuses.message().await.unwrap().unwrap();
    assert!(matches!(loaded.models[0].state(), LoadState::Loading | LoadState::Loaded));
    bench.unload("tiny", 0).await.unwrap();
    bench.host.shutdown.stopping.cancel();
    while let Some(status) = statuses.message().await.unwrap() {
        assert!(status.models.len() <= 1);
    }
}
