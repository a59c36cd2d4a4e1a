//! What is seen from outside.

use std::process::Command;

use futures::future::join_all;
use millm_kit::Reason;
use millm_proto::catalog::v1::model::State;
use millm_proto::runtime::v1::{GenerateRequest, GetStatusRequest, LoadState, WatchStatusRequest};

use super::{
    bench::{Bench, check, fixtures},
    ids, question,
};

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

#[tokio::test]
async fn a_renamed_model_goes_by_its_new_name() {
    let bench = Bench::loaded(&[]).await;
    bench.shelf.put(1, "petit", fixtures().join("tiny-millm"), State::Ready);
    bench.wait(|status| status.models[0].handle == "petit").await;
    let to = |model: &str| GenerateRequest { model: model.into(), ..question("Hello!") };
    let answer = bench.generate(to("petit")).await;
    assert_eq!(answer.messages[0].start.as_ref().unwrap().handle, "petit");
    check(bench.begin(to("tiny")).await, Reason::ModelNotFound, "'tiny'");
}

#[tokio::test]
async fn the_estimate_is_near_what_is_measured() {
    if !has_process_of_its_own("tests::watching::the_estimate_is_near_what_is_measured") {
        return;
    }
    // So much that the model counts and not what this process is: a server's share for itself is larger.
    let bench = Bench::start(&[("parallel_requests", "64"), ("context_length", "1024")]).await;
    bench.load("tiny").await;
    // Every slot filled to the end of its context, none as another.
    let full = |slot: u32| {
        let prompt: Vec<u32> = (0..1000).map(|i| 260 + (7 * i + 131 * slot) % 1700).collect();
        GenerateRequest { ignore_eos: true, ..ids(&prompt) }
    };
    join_all((0..64).map(|slot| bench.generate(full(slot)))).await;
    let model = bench.wait(|_| true).await.models.remove(0);
    let (estimated, measured) = (model.estimated_memory_bytes as f64, model.measured_memory_bytes as f64);
    assert!((estimated / measured - 1.0).abs() < 0.2, "estimated {estimated}, measured {measured}");
}

/// Memory is counted for the process, which other tests would share: runs this test alone in another one.
fn has_process_of_its_own(test: &str) -> bool {
    const ALONE: &str = "MILLM_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}
