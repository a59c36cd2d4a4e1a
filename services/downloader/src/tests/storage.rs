//! The repair: Catalog and models folder agree after every start, and on request.

use std::fs;

use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::{Quantization, model::State as RowState},
    downloader::v1::{download::State, storage_finding::Kind},
};

use super::fixture::{Fixture, pull, synthetic, tiny};

#[tokio::test]
async fn a_model_that_lost_its_files_is_downloaded_again() {
    let fixture = Fixture::new([tiny("o/n")]);
    let mut downloader = fixture.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Native)).await.model_id;
    downloader.stop().await;
    let folder = fixture.models().join("huggingface/o--n--NATIVE");
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let mut downloader = fixture.start().await;
    downloader.list().await;
    let row = fixture.catalog.row(id);
    assert_eq!(row.state(), RowState::Error);
    let error = ServiceError::from_rpc(&row.error.unwrap());
    assert!(error.reason == Reason::InvalidModelFile && error.message.contains("o--n--NATIVE"), "{error}");
    let before = fixture.bytes_sent("tokenizer.json");
    let end = downloader.fetch(pull("o/n", Quantization::Native)).await;
    assert_eq!(end.model_id, id);
    assert_eq!(fixture.bytes_sent("tokenizer.json"), before, "the files that are left are reused");
    downloader.stop().await;
    fixture.start().await.list().await;
    assert_eq!(fixture.names("huggingface"), [format!("o--n--NATIVE--{id}")]);
}

#[tokio::test]
async fn a_folder_without_a_row_is_removed() {
    let fixture = Fixture::new([tiny("o/n"), tiny("o/kept")]);
    let mut downloader = fixture.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Native)).await.model_id;
    downloader.fetch(pull("o/kept", Quantization::Native)).await;
    fs::create_dir(fixture.models().join("huggingface/mine")).unwrap();
    fixture.catalog.lose(id);
    let report = downloader.check_storage(false).await;
    let kinds: Vec<_> = report.findings.iter().map(|finding| (finding.kind(), finding.problem)).collect();
    assert_eq!(kinds, [(Kind::FolderWithoutRow, true), (Kind::FolderUnknown, false)]);
    assert!(report.reclaimable_bytes > 7_000_000 && report.write_error.is_empty() && report.free_bytes > 0);
    assert!(report.models_bytes > report.reclaimable_bytes);
    downloader.stop().await;
    fixture.start().await.list().await;
    assert_eq!(fixture.names("huggingface"), ["mine", "o--kept--NATIVE"]);
}

#[tokio::test]
async fn a_running_server_repairs_on_request() {
    let fixture = Fixture::new([tiny("o/n")]);
    let mut downloader = fixture.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Q8)).await.model_id;
    let moved = fixture.models().join("huggingface/elsewhere");
    fs::rename(fixture.models().join("huggingface/o--n--Q8"), &moved).unwrap();
    fs::create_dir_all(fixture.models().join("huggingface/.incoming-99")).unwrap();
    let report = downloader.check_storage(true).await;
    assert!(report.findings.iter().all(|finding| finding.fixed && !finding.remedy.is_empty()), "{report:?}");
    let row = fixture.catalog.row(id);
    assert_eq!((row.state(), row.storage_path), (RowState::Ready, moved.display().to_string()));
    assert!(downloader.check_storage(false).await.findings.is_empty());
    assert_eq!(fixture.names("huggingface"), ["elsewhere"]);
}

#[tokio::test]
async fn running_downloads_are_left_alone() {
    let fixture = Fixture::new([synthetic("o/n")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 4 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    let report = downloader.check_storage(true).await;
    assert!(report.findings.is_empty() && report.partial_bytes > 0, "{report:?}");
    pause.release();
    assert_eq!(downloader.end_of(id).await.state(), State::Succeeded);
}

#[tokio::test]
async fn a_row_deleted_during_the_download_leaves_no_folder() {
    let fixture = Fixture::new([synthetic("o/n")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/model.safetensors", 1 << 20);
    let id = downloader.pull(pull("o/n", Quantization::Native)).await.unwrap().model_id;
    pause.reached().await;
    fixture.catalog.lose(id);
    pause.release();
    assert_eq!(downloader.end_of(id).await.state(), State::Cancelled);
    assert!(fixture.names("huggingface").is_empty() && fixture.catalog.rows().is_empty());
}

#[tokio::test]
async fn a_waiting_download_has_an_estimated_start() {
    let fixture = Fixture::new([synthetic("a/first"), tiny("a/second")]);
    let mut downloader = fixture.start().await;
    let slow = fake_hub::FaultKind::Rate { bytes_per_second: 4 << 20 };
    fixture.hub.fault(fake_hub::Fault::new("*first*/model.safetensors", slow));
    let first = downloader.pull(pull("a/first", Quantization::Native)).await.unwrap().model_id;
    let second = downloader.pull(pull("a/second", Quantization::Native)).await.unwrap();
    assert!(second.queue_position == 1 && second.total_bytes > 7_000_000);
    let mut watch = downloader.watch(second.model_id).await;
    let told = loop {
        let snapshot = watch.message().await.unwrap().expect("the download waits");
        assert_eq!(snapshot.state(), State::Queued, "it began before it had an estimate");
        if snapshot.estimated_start_time.is_some() {
            break snapshot;
        }
    };
    let start = std::time::SystemTime::try_from(told.estimated_start_time.unwrap()).unwrap();
    let wait = start.duration_since(std::time::SystemTime::now()).unwrap_or_default();
    assert!(wait.as_secs() < 120, "{wait:?}");
    fixture.hub.clear_faults();
    downloader.cancel(first).await.unwrap();
    let end = downloader.end_of(second.model_id).await;
    assert_eq!((end.state(), end.estimated_start_time), (State::Succeeded, None));
}
