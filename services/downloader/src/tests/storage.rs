//! The catalogue and the models folder agree after every start, and when somebody asks for it.

use std::fs;

use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::{Quantization, model::State as RowState},
    downloader::v1::{download::State, storage_finding::Kind},
};

use super::world::{World, pull, synthetic, tiny};

#[tokio::test]
async fn a_model_that_lost_its_files_is_got_again() {
    let world = World::new([tiny("o/n")]);
    let mut downloader = world.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Native)).await.model_id;
    downloader.stop().await;
    let folder = world.models().join("huggingface/o--n--NATIVE");
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let mut downloader = world.start().await;
    downloader.list().await;
    let row = world.catalog.row(id);
    assert_eq!(row.state(), RowState::Error);
    let error = ServiceError::from_rpc(&row.error.unwrap());
    assert!(error.reason == Reason::InvalidModelFile && error.message.contains("o--n--NATIVE"), "{error}");
    let before = world.bytes_sent("tokenizer.json");
    let end = downloader.fetch(pull("o/n", Quantization::Native)).await;
    assert_eq!(end.model_id, id);
    assert_eq!(world.bytes_sent("tokenizer.json"), before, "what was left is used");
    downloader.stop().await;
    world.start().await.list().await;
    assert_eq!(world.names("huggingface"), [format!("o--n--NATIVE--{id}")]);
}

#[tokio::test]
async fn a_folder_that_no_row_knows_is_removed() {
    let world = World::new([tiny("o/n"), tiny("o/kept")]);
    let mut downloader = world.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Native)).await.model_id;
    downloader.fetch(pull("o/kept", Quantization::Native)).await;
    fs::create_dir(world.models().join("huggingface/mine")).unwrap();
    world.catalog.lose(id);
    let report = downloader.check_storage(false).await;
    let kinds: Vec<_> = report.findings.iter().map(|finding| (finding.kind(), finding.problem)).collect();
    assert_eq!(kinds, [(Kind::FolderWithoutRow, true), (Kind::FolderUnknown, false)]);
    assert!(report.reclaimable_bytes > 7_000_000 && report.write_error.is_empty() && report.free_bytes > 0);
    assert!(report.models_bytes > report.reclaimable_bytes);
    downloader.stop().await;
    world.start().await.list().await;
    assert_eq!(world.names("huggingface"), ["mine", "o--kept--NATIVE"]);
}

#[tokio::test]
async fn asked_to_a_running_server_mends() {
    let world = World::new([tiny("o/n")]);
    let mut downloader = world.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Q8)).await.model_id;
    let moved = world.models().join("huggingface/elsewhere");
    fs::rename(world.models().join("huggingface/o--n--Q8"), &moved).unwrap();
    fs::create_dir_all(world.models().join("huggingface/.incoming-99")).unwrap();
    let report = downloader.check_storage(true).await;
    assert!(report.findings.iter().all(|finding| finding.fixed && !finding.remedy.is_empty()), "{report:?}");
    let row = world.catalog.row(id);
    assert_eq!((row.state(), row.storage_path), (RowState::Ready, moved.display().to_string()));
    assert!(downloader.check_storage(false).await.findings.is_empty());
    assert_eq!(world.names("huggingface"), ["elsewhere"]);
}

#[tokio::test]
async fn what_arrives_is_left_alone() {
    let world = World::new([synthetic("o/n")]);
    let mut downloader = world.start().await;
    let pause = world.hub.pause_at("*/model.safetensors", 4 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    let report = downloader.check_storage(true).await;
    assert!(report.findings.is_empty() && report.partial_bytes > 0, "{report:?}");
    pause.release();
    assert_eq!(downloader.end_of(id).await.state(), State::Succeeded);
}

#[tokio::test]
async fn a_row_that_is_gone_at_the_end_leaves_no_folder() {
    let world = World::new([synthetic("o/n")]);
    let mut downloader = world.start().await;
    let pause = world.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    world.catalog.lose(id);
    pause.release();
    assert_eq!(downloader.end_of(id).await.state(), State::Cancelled);
    assert!(world.names("huggingface").is_empty() && world.catalog.rows().is_empty());
}

#[tokio::test]
async fn who_waits_is_told_when_the_turn_may_come() {
    let world = World::new([synthetic("a/first"), tiny("a/second")]);
    let mut downloader = world.start().await;
    let slow = fake_hub::FaultKind::Rate { bytes_per_second: 4 << 20 };
    world.hub.fault(fake_hub::Fault::new("*first*/model.safetensors", slow));
    let first = downloader.pull(pull("a/first", Quantization::Native)).await.unwrap().model_id;
    let second = downloader.pull(pull("a/second", Quantization::Native)).await.unwrap();
    assert!(second.queue_position == 1 && second.total_bytes > 7_000_000);
    let mut watch = downloader.watch(second.model_id).await;
    let told = loop {
        let snapshot = watch.message().await.unwrap().expect("it waits");
        assert_eq!(snapshot.state(), State::Queued, "its turn came before it was told when");
        if snapshot.estimated_start_time.is_some() {
            break snapshot;
        }
    };
    let start = std::time::SystemTime::try_from(told.estimated_start_time.unwrap()).unwrap();
    let wait = start.duration_since(std::time::SystemTime::now()).unwrap_or_default();
    assert!(wait.as_secs() < 120, "{wait:?}");
    world.hub.clear_faults();
    downloader.cancel(first).await.unwrap();
    let end = downloader.end_of(second.model_id).await;
    assert_eq!((end.state(), end.estimated_start_time), (State::Succeeded, None));
}
