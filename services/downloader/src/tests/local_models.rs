//! A person's own models: registered, quantized, removed, and never changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use millm_kit::Reason;
use millm_model::Checkpoint;
use millm_proto::{
    catalog::v1::{Quantization, Source, model},
    downloader::v1::download::State,
};

use super::fixture::{FIXTURES, Fixture, local};

fn own_model(fixture: &Fixture) -> PathBuf {
    let folder = fixture.folder.path().join("mine");
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(format!("{FIXTURES}/tiny-millm")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    folder.canonicalize().unwrap()
}

fn listing(folder: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut listing: Vec<_> =
        entries.map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len())).collect();
    listing.sort();
    listing
}

#[tokio::test]
async fn a_folder_is_ready_at_once_and_stays_when_removed() {
    let fixture = Fixture::new([]);
    let path = own_model(&fixture);
    let before = listing(&path);
    let mut downloader = fixture.start().await;
    let done = downloader.pull(local(&path, Quantization::Unspecified)).await.unwrap();
    assert_eq!(done.state(), State::Succeeded);
    let row = fixture.catalog.row(done.model_id);
    assert_eq!((row.state(), row.source()), (model::State::Ready, Source::Local));
    assert_eq!(
        (row.storage_path.as_str(), row.actual_quantization()),
        (path.to_str().unwrap(), Quantization::Native)
    );
    assert_eq!(fixture.names("local"), [format!("mine--{}", row.id)]);
    assert_eq!(downloader.end_of(row.id).await.state(), State::Succeeded);
    let again = downloader.pull(local(&path, Quantization::Native)).await.unwrap_err();
    assert_eq!(again.reason, Reason::ModelAlreadyExists);
    downloader.remove("mine").await.unwrap();
    assert!(fixture.catalog.rows().is_empty() && fixture.names("local").is_empty());
    assert_eq!(listing(&path), before);
}

#[tokio::test]
async fn a_folder_is_quantized_into_the_models_folder() {
    let fixture = Fixture::new([]);
    let path = own_model(&fixture);
    let before = listing(&path);
    let mut downloader = fixture.start().await;
    let mut request = local(&path, Quantization::Q8);
    request.handle = "x".to_owned();
    let end = downloader.fetch(request).await;
    let row = fixture.catalog.row(end.model_id);
    assert_eq!((row.handle.as_str(), row.actual_quantization()), ("x", Quantization::Q8));
    let folder = PathBuf::from(&row.storage_path);
    assert!(folder.ends_with(format!("local-quantized/x--{}--Q8", row.id)));
    assert!(Checkpoint::open(&folder).is_ok() && folder.join("tokenizer.json").exists());
    assert_eq!(listing(&path), before);
    downloader.remove("x").await.unwrap();
    assert!(!folder.exists());
    assert_eq!(listing(&path), before);
}

#[tokio::test]
async fn unusable_paths_are_refused() {
    let fixture = Fixture::new([]);
    let mut downloader = fixture.start().await;
    let pickle = fixture.folder.path().join("pickle");
    fs::create_dir_all(&pickle).unwrap();
    fs::write(pickle.join("pytorch_model.bin"), b"x").unwrap();
    fs::write(fixture.folder.path().join("broken.gguf"), b"GGUF").unwrap();
    for (path, expected) in [
        (PathBuf::from("relative"), Reason::InvalidLocalPath),
        (PathBuf::from("/no/such/place"), Reason::InvalidLocalPath),
        (PathBuf::from("/dev/null"), Reason::InvalidLocalPath),
        (fixture.models(), Reason::InvalidLocalPath),
        (pickle, Reason::InvalidModelFile),
        (fixture.folder.path().join("broken.gguf"), Reason::InvalidModelFile),
    ] {
        let error = downloader.pull(local(&path, Quantization::Native)).await.unwrap_err();
        assert_eq!(error.reason, expected, "{}: {}", path.display(), error.message);
    }
    assert!(fixture.catalog.rows().is_empty());
}
