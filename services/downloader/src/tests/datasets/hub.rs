//! Datasets of the hub: which files are fetched, and what is left after faults, restarts and removals.

use std::{fs, path::Path, sync::Arc};

use fake_hub::{Content, Fault, FaultKind, Gated, RepoSpec};
use millm_kit::Reason;
use millm_proto::catalog::v1::{DatasetFormat, Source, dataset::State};
use serde_json::json;

use super::{added, begin, end_of, failed, of_hub, of_split, refusal, remove, rows};
use crate::tests::fixture::{FIXTURES, Fixture, Free, tiny};

/// Rows of about a kibibyte.
fn texts(rows: usize) -> String {
    let text = "word ".repeat(200);
    (0..rows).map(|row| format!("{{\"text\": \"{row} {text}\"}}\n")).collect::<Vec<_>>().concat()
}

fn parquet(name: &str) -> Content {
    Content::Disk(Path::new(FIXTURES).join(format!("datasets/{name}.parquet")))
}

fn small(id: &str) -> RepoSpec {
    RepoSpec::new(id)
        .dataset()
        .file("README.md", "# A dataset")
        .file("data/train-00000-of-00001.parquet", parquet("snappy"))
        .file("data/test-00000-of-00001.parquet", parquet("zstd"))
}

/// A dataset of 22 MiB, which comes in ranges.
fn large(id: &str) -> RepoSpec {
    RepoSpec::new(id).dataset().file("train.jsonl", texts(22 << 10))
}

fn folders(fixture: &Fixture) -> Vec<String> {
    let folder = fixture.models().join("datasets");
    if folder.exists() { fixture.names("datasets") } else { Vec::new() }
}

#[tokio::test]
async fn a_split_is_fetched_read_and_removed() {
    let fixture = Fixture::new([small("O/data")]);
    let mut downloader = fixture.start().await;
    let dataset = added(&mut downloader, of_hub("o/DATA")).await;
    assert_eq!((dataset.source(), dataset.format()), (Source::Huggingface, DatasetFormat::Parquet));
    assert_eq!((dataset.repo_id.as_str(), dataset.revision.as_str()), ("O/data", "main"));
    assert_eq!((dataset.config.as_str(), dataset.split.as_str()), ("default", "train"));
    assert_eq!((dataset.commit.len(), dataset.rows, dataset.column.as_str()), (40, 10, "text"));
    let path = fixture.models().canonicalize().unwrap().join("datasets/1/data/train-00000-of-00001.parquet");
    assert_eq!(dataset.files.len(), 1);
    assert_eq!(dataset.files[0].path, path.display().to_string());
    assert_eq!(fixture.names("datasets/1"), ["data"], "no partial files are left");
    let found = rows(&mut downloader, "data", 5, 1).await.unwrap();
    assert_eq!(found[0]["input_ids"], json!([0]));
    let test = added(&mut downloader, of_split("O/data", "", "test")).await;
    assert_ne!(test.id, dataset.id);
    assert_eq!(refusal(&mut downloader, of_hub("O/data")).await.0, Reason::DatasetAlreadyExists);
    for id in ["1", "datasets/2"] {
        remove(&mut downloader, id).await.unwrap();
    }
    assert!(fixture.catalog.datasets().rows().is_empty() && folders(&fixture).is_empty());
    // Models are not concerned.
    assert_eq!(downloader.check_storage(false).await.findings.len(), 0);
}

#[tokio::test]
async fn the_card_and_the_hubs_conversion_say_which_files_count() {
    let configs = json!({"configs": [
        {"config_name": "en", "data_files": [{"split": "train", "path": ["en/*.jsonl"]}]},
        {"config_name": "de", "default": true, "data_files": "de/*.csv"},
    ]});
    let carded = RepoSpec::new("o/carded")
        .dataset()
        .file("en/b.jsonl", "{\"text\": \"2\"}\n")
        .file("en/a.jsonl", "{\"text\": \"1\"}\n")
        .file("de/x.csv", "text\nzwei\n")
        .info("cardData", configs);
    let scripted = RepoSpec::new("o/scripted")
        .dataset()
        .file("scripted.py", "print()")
        .branch("refs/convert/parquet", vec![("default/train/0000.parquet".to_owned(), parquet("gzip"))]);
    let fixture = Fixture::new([carded, scripted]);
    let mut downloader = fixture.start().await;
    let dataset = added(&mut downloader, of_split("o/carded", "en", "")).await;
    assert_eq!((dataset.config.as_str(), dataset.files.len(), dataset.rows), ("en", 2, 2));
    assert_eq!(rows(&mut downloader, &dataset.handle, 0, 1).await.unwrap(), [json!({"text": "1"})]);
    let dataset = added(&mut downloader, of_hub("o/carded")).await;
    assert_eq!((dataset.config.as_str(), dataset.format()), ("de", DatasetFormat::Csv));
    let dataset = added(&mut downloader, of_hub("o/scripted")).await;
    assert_eq!((dataset.revision.as_str(), dataset.rows), ("refs/convert/parquet", 10));
}

#[tokio::test]
async fn repositories_that_cannot_be_added_are_refused_before_a_row_exists() {
    let gated = small("o/gated").gated(Gated::Manual);
    let pictures = RepoSpec::new("o/pictures").dataset().file("a.png", "x");
    let mut fixture = Fixture::new([small("o/data"), gated, pictures, tiny("o/model")]);
    let mut downloader = fixture.start().await;
    for (request, expected, words) in [
        (of_hub("../x"), Reason::InvalidRepoId, ""),
        (of_hub("o/absent"), Reason::RepoNotFound, "Dataset not found: 'o/absent'"),
        (of_hub("o/gated"), Reason::GatedModelNoToken, "'o/gated' is gated"),
        (of_hub("o/model"), Reason::RepoNotFound, "'o/model' is a model, not a dataset"),
        (of_split("o/data", "fr", ""), Reason::InvalidArgument, "'config' is 'fr'"),
        (of_split("o/data", "", "dev"), Reason::InvalidArgument, "there are test, train"),
        (of_hub("o/pictures"), Reason::InvalidDataset, "has no data files that can be read"),
    ] {
        let (reason, message) = refusal(&mut downloader, request).await;
        assert_eq!(reason, expected, "{message}");
        assert!(message.contains(words), "{message}");
    }
    downloader.stop().await;
    fixture.disk = Some(Arc::new(Free(1000)));
    let mut downloader = fixture.start().await;
    assert_eq!(refusal(&mut downloader, of_hub("o/data")).await.0, Reason::InsufficientDisk);
    assert!(fixture.catalog.datasets().rows().is_empty() && folders(&fixture).is_empty());
}

#[tokio::test]
async fn a_gated_dataset_needs_a_token() {
    let gated = small("o/gated").gated(Gated::Manual).access("hf_member");
    let fixture = Fixture::new([gated]);
    let mut downloader = fixture.start().await;
    let with_token = |token: &str| {
        let mut request = of_hub("o/gated");
        if let Some(super::Source::Hub(hub)) = &mut request.source {
            token.clone_into(&mut hub.hf_token);
        }
        request
    };
    let (_, error) = failed(&mut downloader, with_token(fake_hub::READER_TOKEN)).await;
    assert_eq!(error.reason, Reason::GatedModelNoAccess);
    assert!(error.message.contains("/datasets/o/gated"), "{}", error.message);
    added(&mut downloader, with_token("hf_member")).await;
}

#[tokio::test]
async fn an_interrupted_dataset_continues_when_it_is_added_again() {
    let fixture = Fixture::new([large("o/large")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/train.jsonl", 15 << 20);
    let mut stream = begin(&mut downloader, of_hub("o/large")).await.unwrap();
    let total = loop {
        let progress = stream.message().await.unwrap().expect("it has not ended");
        if progress.bytes_total > 0 && progress.bytes_done >= progress.bytes_total - (1 << 20) {
            break progress.bytes_total;
        }
    };
    downloader.stop().await;
    pause.release();
    assert_eq!(fixture.catalog.datasets().rows()[0].state(), State::Pending);
    let end = stream.message().await.unwrap_err();
    assert_eq!(millm_kit::ServiceError::from(end).reason, Reason::ServiceUnavailable);

    fixture.hub.clear_log();
    let mut downloader = fixture.start().await;
    // The first call is answered once the datasets of the earlier process are dealt with.
    downloader.list().await;
    let row = fixture.catalog.datasets().rows().remove(0);
    assert_eq!(row.state(), State::Error);
    assert!(row.error.unwrap().message.contains("interrupted: add it again to continue"));
    assert!(fixture.hub.log().is_empty(), "nothing is fetched unasked");
    let dataset = added(&mut downloader, of_hub("o/large")).await;
    assert_eq!((dataset.id, dataset.rows), (row.id, 22 << 10));
    assert_eq!(dataset.files[0].size_bytes, total);
    assert_eq!(fixture.bytes_sent("/train.jsonl"), 1 << 20, "the rest was on the disk");
}

#[tokio::test]
async fn a_dataset_that_is_being_added_is_joined() {
    let fixture = Fixture::new([large("o/large")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/train.jsonl", 1 << 20);
    let first = begin(&mut downloader, of_hub("o/large")).await.unwrap();
    pause.reached().await;
    let second = begin(&mut downloader, of_hub("o/large")).await.unwrap();
    // Leaving cancels nothing.
    drop(first);
    let unread = rows(&mut downloader, "large", 0, 1).await.unwrap_err();
    assert_eq!(unread.reason, Reason::DatasetNotReady);
    pause.release();
    assert_eq!(end_of(second).await.unwrap().state(), State::Ready);
    assert_eq!(fixture.catalog.datasets().rows().len(), 1);
}

#[tokio::test]
async fn a_dataset_is_removed_while_it_is_fetched() {
    let fixture = Fixture::new([large("o/large")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*/train.jsonl", 1 << 20);
    let stream = begin(&mut downloader, of_hub("o/large")).await.unwrap();
    pause.reached().await;
    remove(&mut downloader, "large").await.unwrap();
    assert!(fixture.catalog.datasets().rows().is_empty() && folders(&fixture).is_empty());
    assert_eq!(end_of(stream).await.unwrap_err().reason, Reason::DatasetNotFound);
    pause.release();
    added(&mut downloader, of_hub("o/large")).await;
}

#[tokio::test]
async fn failed_datasets_keep_their_bytes_unless_the_repository_has_changed() {
    let mut fixture = Fixture::new([RepoSpec::new("o/d").dataset().file("a.jsonl", "{\"text\": 1}\n")]);
    fixture.settings.push(("MILLM_DOWNLOAD_RETRIES", "0".to_owned()));
    let mut downloader = fixture.start().await;
    // The sample already shows that no column can be read.
    let (dataset, error) = failed(&mut downloader, of_hub("o/d")).await;
    assert_eq!(error.reason, Reason::InvalidArgument, "{}", error.message);
    assert_eq!(folders(&fixture), ["1"]);
    let repaired =
        RepoSpec::new("o/d").dataset().file("a.jsonl", "{\"text\": \"\"}\n").file("b.jsonl", "{}\n");
    fixture.hub.add_repo(repaired).unwrap();
    let fault = fixture.hub.fault(Fault::new(
        "*/b.jsonl",
        FaultKind::Status { code: 503, retry_after: None, rate_limit_seconds: None },
    ));
    let (again, error) = failed(&mut downloader, of_hub("o/d")).await;
    assert_eq!((again.id, error.reason), (dataset.id, Reason::ModelDownloadFailed), "{}", error.message);
    fixture.hub.disarm(fault);
    fixture.hub.clear_log();
    let dataset = added(&mut downloader, of_hub("o/d")).await;
    assert_eq!((dataset.id, dataset.rows, dataset.error), (again.id, 2, None));
    assert_ne!(dataset.commit, "");
    let file = fs::read_to_string(&dataset.files[0].path).unwrap();
    assert_eq!(file, "{\"text\": \"\"}\n", "the file of the other commit is gone");
}

#[tokio::test]
async fn folders_without_a_row_are_removed_at_the_start() {
    let fixture = Fixture::new([small("o/data")]);
    let mut downloader = fixture.start().await;
    let kept = added(&mut downloader, of_hub("o/data")).await;
    let lost = added(&mut downloader, of_split("o/data", "", "test")).await;
    downloader.stop().await;
    fixture.catalog.datasets().lose(lost.id);
    let other = fixture.models().join("datasets/2-0123456789abcdef");
    fs::create_dir_all(&other).unwrap();
    let mut downloader = fixture.start().await;
    downloader.list().await;
    assert_eq!(folders(&fixture), ["1", "2-0123456789abcdef"], "another catalogue's folder stays");
    assert_eq!(rows(&mut downloader, &kept.handle, 0, 100).await.unwrap().len(), 10);
}
