//! Extractions that are refused, and those that fail with a typed error.

use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::{ActivationFormat, dataset::State as DatasetState, dataset_column::Kind},
    inspection::v1::{ExtractionConfig, extraction::State},
};
use serde_json::json;

use super::{
    datasets::config,
    fixture::{Fixture, check},
};

#[tokio::test]
async fn extractions_that_are_refused() {
    let fixture = Fixture::loaded(&[]).await;
    fixture.datasets.put_texts(1, "stories", &["Hello!"]);
    fixture.datasets.put_texts(2, "empty", &[]);
    fixture.datasets.put_texts(3, "huge", &["Hello!"]);
    fixture.datasets.put_texts(4, "coming", &["Hello!"]);
    fixture.datasets.put_texts(5, "gone", &["Hello!"]);
    fixture.datasets.change(3, |row| row.files[0].rows = 1_000_000_000);
    fixture.datasets.change(4, |row| row.state = DatasetState::Pending.into());
    fixture.datasets.change(5, |row| row.state = DatasetState::Error.into());
    let refused = |config| fixture.start_extraction(config);
    let invalid = Reason::InvalidArgument;

    check(
        refused(config("stories", &["resid_pots"], |_| {})).await,
        Reason::HookPointUnknown,
        "nearest: resid_post",
    );
    check(
        refused(config("stories", &["residual"], |s| s.layers = "0-99".into())).await,
        Reason::HookPointUnknown,
        "99",
    );
    check(refused(config("nothing", &["residual"], |_| {})).await, Reason::DatasetNotFound, "nothing");
    check(refused(config("", &["residual"], |_| {})).await, invalid, "'dataset'");
    check(refused(config("empty", &["residual"], |_| {})).await, Reason::InvalidDataset, "no rows");
    check(refused(config("coming", &["residual"], |_| {})).await, Reason::DatasetNotReady, "being fetched");
    check(refused(config("gone", &["residual"], |_| {})).await, Reason::DatasetNotReady, "could not be read");
    let column =
        |name: &str| ExtractionConfig { column: name.into(), ..config("stories", &["residual"], |_| {}) };
    check(refused(column("body")).await, Reason::InvalidDataset, "no column 'body'");
    check(refused(column("id")).await, Reason::InvalidDataset, "'id'");
    check(
        refused(config("huge", &["residual"], |s| s.sequence_length = 2048)).await,
        Reason::InsufficientDisk,
        "GB",
    );
    let safetensors = config("stories", &["residual"], |s| s.format = ActivationFormat::Safetensors.into());
    check(refused(safetensors).await, invalid, "SAFETENSORS");
    let other = ExtractionConfig { model: "tiny-q8".into(), ..config("stories", &["residual"], |_| {}) };
    check(refused(other).await, Reason::ModelNotLoaded, "'tiny-q8' is not loaded");
    let nobody = ExtractionConfig { model: "nobody".into(), ..config("stories", &["residual"], |_| {}) };
    check(refused(nobody).await, Reason::ModelNotFound, "nobody");
    // Nothing is left of them.
    assert_eq!(std::fs::read_dir(fixture.activations.path()).unwrap().count(), 0);
}

/// Starts an extraction that fails, and returns the error.
async fn failed(fixture: &Fixture, dataset: &str) -> ServiceError {
    let id = fixture.start_extraction(config(dataset, &["embed"], |_| {})).await.unwrap().id;
    let shown = fixture.over(&id).await;
    assert_eq!(shown.state(), State::Failed, "{shown:?}");
    ServiceError::from_rpc(&shown.error.unwrap())
}

#[tokio::test]
async fn datasets_that_cannot_be_read_fail_their_job() {
    let fixture = Fixture::loaded(&[]).await;
    let lines = [json!({"text": "Hello!"}).to_string(), "{\"text\": ".to_owned()];
    fixture.datasets.put(1, "malformed", &lines, Kind::Text);
    let error = failed(&fixture, "malformed").await;
    assert_eq!(error.reason, Reason::InvalidDataset);
    assert!(error.message.contains("malformed.jsonl, row 2"), "{error}");

    fixture.datasets.put_texts(2, "changed", &["Hello!"]);
    fixture.datasets.change(2, |row| row.files[0].size_bytes += 1);
    let error = failed(&fixture, "changed").await;
    assert!(error.reason == Reason::InvalidDataset && error.message.contains("changed"), "{error}");

    fixture.datasets.put_texts(3, "blank", &["", ""]);
    let error = failed(&fixture, "blank").await;
    assert!(
        error.reason == Reason::InvalidDataset && error.message.contains("none of its 2 rows"),
        "{error}"
    );

    let ids = [json!({"text": [1, 2]}).to_string(), json!({"text": [4_000_000_000u32]}).to_string()];
    fixture.datasets.put(4, "ids", &ids, Kind::TokenIds);
    let error = failed(&fixture, "ids").await;
    assert!(error.reason == Reason::InvalidDataset && error.message.contains("ids, row 1"), "{error}");

    fixture.datasets.put_texts(5, "missing", &["Hello!"]);
    fixture.datasets.change(5, |row| row.files[0].path.push('x'));
    assert_eq!(failed(&fixture, "missing").await.reason, Reason::InvalidDataset);

    // A link in place of the file that was registered.
    fixture.datasets.put_texts(6, "moved", &["Hello!"]);
    fixture.datasets.change(6, |row| {
        let path = std::path::Path::new(&row.files[0].path);
        std::fs::rename(path, path.with_extension("elsewhere")).unwrap();
        std::os::unix::fs::symlink(path.with_extension("elsewhere"), path).unwrap();
    });
    assert_eq!(failed(&fixture, "moved").await.reason, Reason::InvalidDatasetPath);
}

#[tokio::test]
async fn files_are_read_by_their_listed_names_only() {
    let fixture = Fixture::loaded(&[]).await;
    fixture.datasets.put_texts(1, "one", &["Hello!"]);
    let job = fixture.extract(config("one", &["embed"], |_| {})).await;
    let invalid = Reason::InvalidArgument;
    for file in ["job.json", "lock", "../embed.npy", "/etc/passwd", "", "embed.npy.partial", "embed.npy/"] {
        check(fixture.read(&job.id, file, 0, 0).await, invalid, "not one of the extraction's files");
    }
    let size = job.files.iter().find(|file| file.name == "embed.npy").unwrap().size_bytes as u64;
    check(fixture.read(&job.id, "embed.npy", size + 1, 0).await, invalid, "'offset'");
    check(fixture.read(&job.id, "embed.npy", 1, size).await, invalid, "'length'");
    check(fixture.read("../x", "embed.npy", 0, 0).await, Reason::ExtractionNotFound, "");
    assert_eq!(fixture.read(&job.id, "embed.npy", size, 0).await.unwrap(), (Vec::new(), size));
    std::fs::remove_file(fixture.activations.path().join(&job.id).join("embed.npy")).unwrap();
    check(fixture.read(&job.id, "embed.npy", 0, 0).await, Reason::NotFound, "embed.npy");
}
