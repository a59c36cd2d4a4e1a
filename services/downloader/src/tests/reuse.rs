//! Reuse: files of our own models and of the Hugging Face cache are not fetched again.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use millm_kit::Reason;
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{StartDownloadRequest, start_download_request::Source},
};

use super::fixture::{FIXTURES, Fixture, MIB, pull, synthetic, tiny};
use crate::store::hf_cache::tests::fill;

const WEIGHTS: &str = "model.safetensors";

/// Puts the trained model into a cache as `huggingface_hub` does, without the files `missing`.
fn with_hf_cache(fixture: &mut Fixture, repo: &str, missing: &[&str]) -> (PathBuf, String) {
    let folder = PathBuf::from(FIXTURES).join("tiny-millm");
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: Vec<(String, Vec<u8>)> = names
        .filter(|name| !missing.contains(&name.as_str()))
        .map(|name| (name.clone(), fs::read(folder.join(name)).unwrap()))
        .collect();
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let root = fixture.folder.path().join("hub");
    let commit = fill(&root, repo, &files);
    fixture.settings.push(("HF_HUB_CACHE", root.display().to_string()));
    (root, commit)
}

fn blob_of_weights(root: &Path, repo: &str, commit: &str) -> PathBuf {
    let link = root.join(format!("models--{}/snapshots/{commit}/{WEIGHTS}", repo.replace('/', "--")));
    link.canonicalize().unwrap()
}

fn published() -> Vec<u8> {
    fs::read(format!("{FIXTURES}/tiny-millm/{WEIGHTS}")).unwrap()
}

#[tokio::test]
async fn weights_of_another_model_are_linked() {
    let fixture = Fixture::new([synthetic("o/n")]);
    let mut downloader = fixture.start().await;
    downloader.fetch(pull("o/n", Quantization::Native)).await;
    let before = fixture.bytes_sent(WEIGHTS);
    assert!(before >= MIB << 20);
    let quantized = downloader.fetch(pull("o/n", Quantization::Q8)).await;
    assert_eq!(fixture.bytes_sent(WEIGHTS), before);
    assert!(
        quantized.resumed_bytes >= (MIB << 20) as i64 && quantized.files.iter().all(|file| file.verified)
    );
    let mut keeping = pull("o/n", Quantization::Q2);
    keeping.keep_source = true;
    downloader.fetch(keeping).await;
    assert_eq!(fixture.bytes_sent(WEIGHTS), before);
    let at = |below: &str| fs::metadata(fixture.models().join("huggingface").join(below)).unwrap();
    let (native, kept) = (at("o--n--NATIVE/model.safetensors"), at("o--n--Q2/source/model.safetensors"));
    assert_eq!((native.ino(), native.nlink()), (kept.ino(), 2));
    // A small file is a copy: an edit does not change the other model.
    assert_ne!(at("o--n--NATIVE/config.json").ino(), at("o--n--Q2/config.json").ino());
    downloader.remove("n").await.unwrap();
    assert_eq!(at("o--n--Q2/source/model.safetensors").nlink(), 1);
}

#[tokio::test]
async fn a_damaged_file_of_ours_is_fetched() {
    let fixture = Fixture::new([synthetic("o/n")]);
    let mut downloader = fixture.start().await;
    downloader.fetch(pull("o/n", Quantization::Native)).await;
    let path = fixture.models().join("huggingface/o--n--NATIVE").join(WEIGHTS);
    let right = fs::read(&path).unwrap();
    let mut wrong = right.clone();
    wrong[20 << 20] ^= 1;
    fs::write(&path, wrong).unwrap();
    let mut request = pull("o/n", Quantization::Q8);
    request.keep_source = true;
    downloader.fetch(request).await;
    assert!(fs::read(fixture.models().join("huggingface/o--n--Q8/source").join(WEIGHTS)).unwrap() == right);
}

#[tokio::test]
async fn files_of_the_hf_cache_are_copied_never_linked() {
    let mut fixture = Fixture::new([tiny("o/n")]);
    let (root, commit) = with_hf_cache(&mut fixture, "o/n", &[]);
    let mut downloader = fixture.start().await;
    let end = downloader.fetch(pull("o/n", Quantization::Native)).await;
    assert_eq!((fixture.bytes_sent(WEIGHTS), fixture.bytes_sent("tokenizer.json")), (0, 0));
    assert_eq!(end.resumed_bytes, end.total_bytes);
    let ours = fixture.models().join("huggingface/o--n--NATIVE").join(WEIGHTS);
    assert!(fs::read(&ours).unwrap() == published());
    let blob = fs::metadata(blob_of_weights(&root, "o/n", &commit)).unwrap();
    assert_eq!((blob.nlink(), fs::metadata(ours).unwrap().nlink()), (1, 1));
}

#[tokio::test]
async fn a_blob_of_another_repository_is_reused() {
    let mut fixture = Fixture::new([tiny("o/copy")]);
    with_hf_cache(&mut fixture, "somebody/else", &[]);
    let mut downloader = fixture.start().await;
    downloader.fetch(pull("o/copy", Quantization::Q4)).await;
    assert_eq!(fixture.bytes_sent(WEIGHTS), 0);
}

#[tokio::test]
async fn a_damaged_blob_is_not_used() {
    let mut fixture = Fixture::new([tiny("o/n")]);
    let (root, commit) = with_hf_cache(&mut fixture, "o/n", &[]);
    let blob = blob_of_weights(&root, "o/n", &commit);
    let mut bytes = published();
    bytes[3_000_000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let mut downloader = fixture.start().await;
    downloader.fetch(pull("o/n", Quantization::Native)).await;
    assert_eq!(fixture.bytes_sent(WEIGHTS), published().len() as u64);
    assert!(
        fs::read(fixture.models().join("huggingface/o--n--NATIVE").join(WEIGHTS)).unwrap() == published()
    );
}

#[tokio::test]
async fn with_the_hub_down_a_local_copy_is_used() {
    let mut fixture = Fixture::new([tiny("o/n")]);
    fixture.settings.push(("MILLM_DOWNLOAD_RETRIES", "0".to_owned()));
    let (root, commit) = with_hf_cache(&mut fixture, "o/n", &[]);
    fixture.hub.take_down();
    let mut downloader = fixture.start().await;
    let theirs = downloader.fetch(pull("o/n", Quantization::Native)).await;
    let row = fixture.catalog.row(theirs.model_id);
    assert_eq!((row.commit.as_str(), row.revision.as_str()), (commit.as_str(), "main"));
    // From here on our own copy is used.
    fs::remove_dir_all(root).unwrap();
    let ours = downloader.fetch(pull("O/N", Quantization::Q4)).await;
    assert_eq!(fixture.catalog.row(ours.model_id).commit, commit);
    let other = downloader.pull(pull("o/other", Quantization::Q4)).await.unwrap_err();
    assert_eq!(other.reason, Reason::HubUnavailable);
    assert!(other.message.contains("127.0.0.1"), "{}", other.message);
}

#[tokio::test]
async fn an_incomplete_copy_is_not_used() {
    for missing in [["tokenizer.json"], ["config.json"], [WEIGHTS]] {
        let mut fixture = Fixture::new([tiny("o/n")]);
        fixture.settings.push(("MILLM_DOWNLOAD_RETRIES", "0".to_owned()));
        with_hf_cache(&mut fixture, "o/n", &missing);
        fixture.hub.take_down();
        let error = fixture.start().await.pull(pull("o/n", Quantization::Q4)).await.unwrap_err();
        assert_eq!(error.reason, Reason::HubUnavailable, "{missing:?}");
        assert!(fixture.catalog.rows().is_empty());
    }
}

fn choosing(
    repo: &str,
    change: impl Fn(&mut millm_proto::downloader::v1::HubSource),
) -> StartDownloadRequest {
    let mut request = pull(repo, Quantization::Unspecified);
    let Some(Source::Hub(hub)) = &mut request.source else { panic!("it is of the hub") };
    change(hub);
    request
}

#[tokio::test]
async fn a_model_in_a_subfolder_is_downloaded() {
    let mut repo = tiny("o/many");
    for (name, _) in &mut repo.files {
        *name = format!("models/small/{name}");
    }
    let fixture = Fixture::new([repo.file("config.json", "{}").file("README.md", "x")]);
    let mut downloader = fixture.start().await;
    let told = downloader.pull(pull("o/many", Quantization::Q4)).await.unwrap_err();
    assert!(told.message.contains("must be one of: models/small"), "{}", told.message);
    let end = downloader.fetch(choosing("o/many", |hub| hub.subfolder = "models/small".into())).await;
    let row = fixture.catalog.row(end.model_id);
    assert_eq!(row.file, "models/small/model.safetensors");
    assert_eq!(fixture.names("huggingface"), ["o--many--Q4--models_small"]);
    let names = fixture.names("huggingface/o--many--Q4--models_small");
    assert!(
        names.contains(&"tokenizer.json".to_owned()) && names.contains(&"model.gguf".to_owned()),
        "{names:?}"
    );
    let again = downloader.pull(choosing("o/many", |hub| hub.file.clone_from(&row.file))).await.unwrap_err();
    assert_eq!(again.reason, Reason::ModelAlreadyExists);
}

#[tokio::test]
async fn one_of_several_gguf_files_is_selected_by_its_quantization() {
    let folder = PathBuf::from(FIXTURES).join("tiny-millm-gguf");
    let fixture = Fixture::new([fake_hub::RepoSpec::folder("o/ggufs", &folder).unwrap()]);
    let mut downloader = fixture.start().await;
    let end = downloader.fetch(choosing("o/ggufs", |hub| hub.variant = "q4_k_m".into())).await;
    let row = fixture.catalog.row(end.model_id);
    assert!(row.file.ends_with("Q4_K_M.gguf"), "{}", row.file);
    assert_eq!((row.requested_quantization(), row.quantization_reason.as_str()), (Quantization::Native, ""));
    let none = downloader.pull(choosing("o/ggufs", |hub| hub.variant = "Q9_9".into())).await.unwrap_err();
    assert_eq!(none.reason, Reason::InvalidArgument);
    assert!(none.message.contains("Q4_K_M.gguf"), "{}", none.message);
}
