//! The status of the runtime.

use std::process::Command;

use futures::future::join_all;
use millm_kit::Reason;
use millm_proto::catalog::v1::model::State;
use millm_proto::runtime::v1::{GenerateRequest, GetStatusRequest, LoadState, WatchStatusRequest};

use super::{
    fixture::{Fixture, check, fixtures},
    ids, question,
};

#[tokio::test]
async fn the_status_has_the_host_and_nothing_loaded() {
    let fixture = Fixture::start(&[]).await;
    let status = fixture.client.clone().get_status(GetStatusRequest {}).await.unwrap().into_inner();
    let cpu = &status.devices[0];
    assert_eq!(cpu.id, "cpu");
    assert!(!cpu.name.is_empty() && cpu.total_bytes > cpu.free_bytes && cpu.free_bytes > 0);
    assert!(status.process_memory_bytes > 0 && status.models.is_empty());
}

#[tokio::test]
async fn watching_shows_a_load_and_ends_when_the_server_stops() {
    let fixture = Fixture::start(&[]).await;
    let mut statuses = fixture.client.clone().watch_status(WatchStatusRequest {}).await.unwrap().into_inner();
    assert!(statuses.message().await.unwrap().unwrap().models.is_empty());
    fixture.load("tiny").await;
    let loaded = statuses.message().await.unwrap().unwrap();
    assert!(matches!(loaded.models[0].state(), LoadState::Loading | LoadState::Loaded));
    fixture.unload("tiny", 0).await.unwrap();
    fixture.host.shutdown.stopping.cancel();
    while let Some(status) = statuses.message().await.unwrap() {
        assert!(status.models.len() <= 1);
    }
}

#[tokio::test]
async fn a_renamed_model_goes_by_its_new_name() {
    let fixture = Fixture::loaded(&[]).await;
    fixture.catalog.put(1, "petit", fixtures().join("tiny-millm"), State::Ready);
    fixture.wait(|status| status.models[0].handle == "petit").await;
    let to = |model: &str| GenerateRequest { model: model.into(), ..question("Hello!") };
    let answer = fixture.generate(to("petit")).await;
    assert_eq!(answer.messages[0].start.as_ref().unwrap().handle, "petit");
    check(fixture.begin(to("tiny")).await, Reason::ModelNotFound, "'tiny'");
}

#[tokio::test]
async fn the_estimate_is_near_what_is_measured() {
    if !runs_in_its_own_process("tests::status::the_estimate_is_near_what_is_measured") {
        return;
    }
    // So many slots that the memory of the model is much larger than that of the process.
    let fixture = Fixture::start(&[("parallel_requests", "64"), ("context_length", "1024")]).await;
    fixture.load("tiny").await;
    // Every slot is filled to the end of its context, with different prompts.
    let full = |slot: u32| {
        let prompt: Vec<u32> = (0..1000).map(|i| 260 + (7 * i + 131 * slot) % 1700).collect();
        GenerateRequest { ignore_eos: true, ..ids(&prompt) }
    };
    join_all((0..64).map(|slot| fixture.generate(full(slot)))).await;
    let model = fixture.wait(|_| true).await.models.remove(0);
    let (estimated, measured) = (model.estimated_memory_bytes as f64, model.measured_memory_bytes as f64);
    assert!((estimated / measured - 1.0).abs() < 0.2, "estimated {estimated}, measured {measured}");
}

/// Runs a test alone in another process, since memory is measured for the whole process. Returns true in that process.
fn runs_in_its_own_process(test: &str) -> bool {
    const ALONE: &str = "MILLM_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}
