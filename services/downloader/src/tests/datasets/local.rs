//! Datasets of this machine: registered where they lie, read, and never changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use millm_kit::Reason;
use millm_proto::catalog::v1::{DatasetFormat, Source, dataset::State, dataset_column::Kind};
use millm_proto::downloader::v1::AddDatasetRequest;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{add, added, failed, of_path, refusal, remove, rows};
use crate::tests::fixture::{FIXTURES, Fixture};

/// Writes a file into the data folder.
fn write(fixture: &Fixture, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = fixture.folder.path().canonicalize().unwrap().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

fn texts(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|n| format!("{{\"text\": \"text {n}\", \"ids\": [{n}]}}\n")).collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn a_file_is_registered_read_and_left_alone() {
    let fixture = Fixture::new([]);
    let content = texts(0..30);
    let path = write(&fixture, "mine.jsonl", &content);
    let mut downloader = fixture.start().await;
    let dataset = added(&mut downloader, of_path(&path)).await;
    assert_eq!((dataset.source(), dataset.format()), (Source::Local, DatasetFormat::Jsonl));
    assert_eq!((dataset.rows, dataset.handle.as_str(), dataset.column.as_str()), (30, "mine", "text"));
    let columns: Vec<_> =
        dataset.columns.iter().map(|column| (column.name.as_str(), column.kind())).collect();
    assert_eq!(columns, [("text", Kind::Text), ("ids", Kind::TokenIds)]);
    let file = &dataset.files[0];
    assert_eq!((file.path.as_str(), file.rows), (path.to_str().unwrap(), 30));
    assert_eq!(
        (file.size_bytes as usize, file.sha256.clone()),
        (content.len(), hex::encode(Sha256::digest(&content)))
    );
    let found = rows(&mut downloader, "mine", 28, 0).await.unwrap();
    assert_eq!(found, [json!({"text": "text 28", "ids": [28]}), json!({"text": "text 29", "ids": [29]})]);
    assert_eq!(rows(&mut downloader, "datasets/1", 0, 0).await.unwrap().len(), 20);
    assert_eq!(rows(&mut downloader, "1", 0, 1000).await.unwrap().len(), 30);
    assert!(rows(&mut downloader, "mine", 30, 5).await.unwrap().is_empty());
    remove(&mut downloader, "mine").await.unwrap();
    assert!(fixture.catalog.datasets().rows().is_empty());
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
    assert_eq!(remove(&mut downloader, "mine").await.unwrap_err().reason, Reason::DatasetNotFound);
}

#[tokio::test]
async fn folders_patterns_and_columns_are_chosen() {
    let fixture = Fixture::new([]);
    let folder = write(&fixture, "set/b.jsonl", texts(3..5)).parent().unwrap().to_owned();
    write(&fixture, "set/a.jsonl", texts(0..3));
    write(&fixture, "set/notes.md", "x");
    let mut downloader = fixture.start().await;
    let whole = added(&mut downloader, of_path(&folder)).await;
    assert_eq!((whole.rows, whole.files.len()), (5, 2));
    let found = rows(&mut downloader, "set", 2, 2).await.unwrap();
    assert_eq!((&found[0]["text"], &found[1]["text"]), (&json!("text 2"), &json!("text 3")));
    let mut request = of_path(&folder.join("b*"));
    (request.handle, request.column) = ("part".to_owned(), "ids".to_owned());
    let part = added(&mut downloader, request).await;
    assert_eq!((part.handle.as_str(), part.column.as_str(), part.rows), ("part", "ids", 2));
}

#[tokio::test]
async fn parquet_of_other_writers_is_read() {
    let fixture = Fixture::new([]);
    let bytes = fs::read(Path::new(FIXTURES).join("datasets/zstd.parquet")).unwrap();
    let path = write(&fixture, "x.parquet", bytes);
    let mut downloader = fixture.start().await;
    let dataset = added(&mut downloader, of_path(&path)).await;
    assert_eq!((dataset.rows, dataset.format(), dataset.columns.len()), (10, DatasetFormat::Parquet, 11));
    let found = rows(&mut downloader, "x", 9, 5).await.unwrap();
    assert_eq!((found.len(), &found[0]["id"], &found[0]["score"]), (1, &json!(9), &json!(2.25)));
}

#[tokio::test]
async fn unusable_paths_and_columns_are_refused_before_a_row_exists() {
    let fixture = Fixture::new([]);
    let good = write(&fixture, "good.jsonl", texts(0..3));
    let two = write(&fixture, "two.csv", "a,b\n1,2\n");
    let empty = write(&fixture, "empty.jsonl", "");
    let odd = write(&fixture, "odd.bin", "x");
    let outside = tempfile::NamedTempFile::with_suffix(".jsonl").unwrap();
    let mut downloader = fixture.start().await;
    for (path, expected, words) in [
        (PathBuf::from("relative.jsonl"), Reason::InvalidDatasetPath, "not absolute"),
        (PathBuf::from("/no/such/place"), Reason::InvalidDatasetPath, "No such file"),
        (PathBuf::from("/dev/null"), Reason::InvalidDatasetPath, "outside the allowed folders"),
        (PathBuf::from("/etc/*.conf"), Reason::InvalidDatasetPath, "outside the allowed folders"),
        (outside.path().to_owned(), Reason::InvalidDatasetPath, "MILLM_DATASET_DIRS"),
        (good.with_extension("*"), Reason::InvalidDataset, ""),
        (odd, Reason::InvalidDataset, "no known format"),
        (empty, Reason::InvalidDataset, "has no rows"),
        (two, Reason::InvalidArgument, "several columns could be read: name one"),
    ] {
        if path.extension().is_some_and(|extension| extension == "*") {
            continue;
        }
        let (reason, message) = refusal(&mut downloader, of_path(&path)).await;
        assert_eq!(reason, expected, "{}: {message}", path.display());
        assert!(message.contains(words), "{message}");
    }
    let mut request = of_path(&good);
    request.column = "absent".to_owned();
    let (reason, message) = refusal(&mut downloader, request).await;
    assert!(
        reason == Reason::InvalidArgument && message.contains("text (text), ids (token ids)"),
        "{message}"
    );
    let mut request = of_path(&good);
    request.handle = "a b".to_owned();
    assert_eq!(refusal(&mut downloader, request).await.0, Reason::InvalidArgument);
    assert_eq!(refusal(&mut downloader, AddDatasetRequest::default()).await.0, Reason::InvalidArgument);
    assert!(fixture.catalog.datasets().rows().is_empty());
}

#[tokio::test]
async fn only_the_folders_of_the_settings_are_allowed() {
    let mut fixture = Fixture::new([]);
    let (inside, outside) =
        (write(&fixture, "in/a.jsonl", texts(0..3)), write(&fixture, "out/a.jsonl", texts(0..3)));
    let folder = inside.parent().unwrap().display().to_string();
    fixture.settings.push(("MILLM_DATASET_DIRS", format!("/absent,{folder}")));
    let mut downloader = fixture.start().await;
    added(&mut downloader, of_path(&inside)).await;
    assert_eq!(refusal(&mut downloader, of_path(&outside)).await.0, Reason::InvalidDatasetPath);
}

#[tokio::test]
async fn a_dataset_that_failed_is_tried_again() {
    let fixture = Fixture::new([]);
    let path = write(&fixture, "late.jsonl", format!("{}{{\"text\": 5}}\n", texts(0..200)));
    let mut downloader = fixture.start().await;
    let (dataset, error) = failed(&mut downloader, of_path(&path)).await;
    assert_eq!(error.reason, Reason::InvalidDataset);
    assert!(error.message.contains("late.jsonl, row 201"), "{}", error.message);
    let unread = rows(&mut downloader, "late", 0, 1).await.unwrap_err();
    assert_eq!(unread.reason, Reason::DatasetNotReady);
    write(&fixture, "late.jsonl", texts(0..200));
    let again = added(&mut downloader, of_path(&path)).await;
    assert_eq!((again.id, again.rows, again.error), (dataset.id, 200, None));
    let error = add(&mut downloader, of_path(&path)).await.unwrap_err();
    assert_eq!((error.reason, error.details["dataset_id"].as_str()), (Reason::DatasetAlreadyExists, "1"));
    // Under another name it is another dataset.
    let mut request = of_path(&path);
    request.handle = "other".to_owned();
    assert_ne!(added(&mut downloader, request).await.id, dataset.id);
}

#[tokio::test]
async fn files_that_have_changed_are_noticed() {
    let fixture = Fixture::new([]);
    let path = write(&fixture, "a.jsonl", texts(0..10));
    let mut downloader = fixture.start().await;
    added(&mut downloader, of_path(&path)).await;
    write(&fixture, "a.jsonl", texts(0..9));
    let error = rows(&mut downloader, "a", 0, 1).await.unwrap_err();
    assert_eq!(error.reason, Reason::InvalidDataset);
    assert!(error.message.contains("has changed since it was registered"), "{}", error.message);
    fs::remove_file(&path).unwrap();
    let elsewhere = write(&fixture, "b.jsonl", texts(0..10));
    std::os::unix::fs::symlink(elsewhere, &path).unwrap();
    let error = rows(&mut downloader, "a", 0, 1).await.unwrap_err();
    assert_eq!(error.reason, Reason::InvalidDatasetPath);
    assert_eq!(fixture.catalog.datasets().rows()[0].state(), State::Ready);
}

#[tokio::test]
async fn answers_are_limited_in_bytes() {
    let fixture = Fixture::new([]);
    let ids = "70000,".repeat(999);
    let row = format!(
        "{{\"a\": [{ids}1], \"b\": [{ids}1], \"c\": [{ids}1], \"text\": \"{}\"}}\n",
        "x".repeat(5000)
    );
    let path = write(&fixture, "wide.jsonl", row.repeat(150));
    let mut downloader = fixture.start().await;
    added(&mut downloader, of_path(&path)).await;
    let found = rows(&mut downloader, "wide", 0, 100).await.unwrap();
    assert_eq!(found[0]["text"].as_str().unwrap().len(), 2000);
    let bytes: usize = found.iter().map(|row| row.to_string().len()).sum();
    assert!(found.len() > 10 && bytes <= 2 << 20, "{} rows, {bytes} bytes", found.len());
}
