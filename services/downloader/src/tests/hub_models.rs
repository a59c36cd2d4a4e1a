//! Successful downloads: what is fetched, what is kept, and what the row says.

use std::fs;

use fake_hub::{Content, Host, RepoSpec};
use millm_model::Checkpoint;
use millm_proto::{
    catalog::v1::{Quantization, model},
    downloader::v1::{WatchDownloadsRequest, download::State},
};
use serde_json::{Value, json};

use super::fixture::{FIXTURES, Fixture, pull, sharded, synthetic, tiny};

#[tokio::test]
async fn a_model_is_downloaded_quantized_and_verified() {
    let fixture = Fixture::new([tiny("millm/tiny")]);
    let mut downloader = fixture.start().await;
    let first = downloader.pull(pull("millm/tiny", Quantization::Q4)).await.unwrap();
    assert_eq!(first.name, format!("downloads/{}", first.model_id));
    let seen = downloader.until_end(first.model_id).await;
    let end = seen.last().unwrap();
    assert_eq!((end.state(), end.fraction), (State::Succeeded, 1.0));
    assert_eq!(end.downloaded_bytes, end.total_bytes);
    assert!(end.files.iter().all(|file| file.verified));

    let row = fixture.catalog.row(first.model_id);
    assert_eq!(row.state(), model::State::Ready);
    assert_eq!((row.actual_quantization(), row.handle.as_str()), (Quantization::Q4, "tiny"));
    assert_eq!(row.architecture.unwrap().name, "LlamaForCausalLM");
    assert!(row.has_chat_template && row.config_json.contains("LlamaForCausalLM"));
    assert!(row.memory_estimate_bytes > row.disk_size_bytes);
    assert_eq!(fixture.names("huggingface"), ["millm--tiny--Q4"]);
    let folder = fixture.models().join("huggingface/millm--tiny--Q4");
    assert_eq!(row.storage_path, folder.canonicalize().unwrap().display().to_string());
    let names = fixture.names("huggingface/millm--tiny--Q4");
    assert!(
        names.contains(&"model.gguf".to_owned()) && !names.iter().any(|name| name.ends_with(".safetensors"))
    );
    assert!(Checkpoint::open(&folder).unwrap().parameter_count() == row.parameter_count as u64);
    let meta: Value = serde_json::from_slice(&fs::read(folder.join(".millm_meta.json")).unwrap()).unwrap();
    assert_eq!(
        (meta["commit"].as_str(), &meta["actual_quantization"]),
        (Some(row.commit.as_str()), &json!("Q4"))
    );
    assert_eq!(row.files.len(), meta["files"].as_array().unwrap().len());
    let gguf = row.files.iter().find(|file| file.path == "model.gguf").unwrap();
    assert_eq!(gguf.sha256.len(), 64);
}

#[tokio::test]
async fn native_keeps_what_was_published_and_nothing_else_is_fetched() {
    let repo = tiny("millm/tiny").file("consolidated.safetensors", "x").file("README.md", "x");
    let fixture = Fixture::new([repo]);
    let mut downloader = fixture.start().await;
    downloader.fetch(pull("millm/tiny", Quantization::Native)).await;
    let folder = fixture.models().join("huggingface/millm--tiny--NATIVE");
    let published = fs::read(format!("{FIXTURES}/tiny-millm/model.safetensors")).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), published);
    for unwanted in ["consolidated.safetensors", "README.md"] {
        assert!(!folder.join(unwanted).exists());
        assert_eq!(fixture.bytes_sent(unwanted), 0);
    }
    assert_eq!(fixture.bytes_sent("model.safetensors"), published.len() as u64);
    let cdn: Vec<_> = fixture.hub.log().into_iter().filter(|entry| entry.host == Host::Cdn).collect();
    assert!(!cdn.is_empty());
}

#[tokio::test]
async fn sources_are_kept_on_request() {
    let fixture = Fixture::new([tiny("millm/tiny")]);
    let mut downloader = fixture.start().await;
    let mut request = pull("millm/tiny", Quantization::Q8);
    request.keep_source = true;
    let end = downloader.fetch(request).await;
    let folder = fixture.models().join("huggingface/millm--tiny--Q8");
    assert!(folder.join("model.gguf").exists() && folder.join("source/model.safetensors").exists());
    let row = fixture.catalog.row(end.model_id);
    let source = row.files.iter().find(|file| file.path == "source/model.safetensors").unwrap();
    assert_eq!(
        source.size_bytes,
        fs::metadata(folder.join("source/model.safetensors")).unwrap().len() as i64
    );
}

#[tokio::test]
async fn a_gguf_repository_is_kept_as_published() {
    let ggufs: Vec<_> =
        fs::read_dir(format!("{FIXTURES}/tiny-millm-gguf")).unwrap().map(|e| e.unwrap().path()).collect();
    let repo = ggufs
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
        .fold(RepoSpec::new("millm/gguf"), |repo, path| {
            repo.file(path.file_name().unwrap().to_str().unwrap(), Content::Disk(path.clone()))
        });
    assert!(repo.files.len() > 1, "the fixtures hold several files");
    let fixture = Fixture::new([repo]);
    let mut downloader = fixture.start().await;
    let end = downloader.fetch(pull("millm/gguf", Quantization::Q8)).await;
    let row = fixture.catalog.row(end.model_id);
    assert_eq!(row.actual_quantization(), Quantization::Native);
    assert!(row.quantization_reason.contains("GGUF") && row.file.to_uppercase().contains("Q8_0"));
    assert_eq!(row.files.len(), 1);
    let other = downloader.pull(pull("millm/gguf", Quantization::Native)).await.unwrap_err();
    assert!(other.message.contains(".gguf"), "{}", other.message);
}

#[tokio::test]
async fn a_sharded_model_is_complete() {
    let fixture = Fixture::new([sharded("millm/sharded")]);
    let mut downloader = fixture.start().await;
    let native = downloader.fetch(pull("millm/sharded", Quantization::Native)).await;
    let quantized = downloader.fetch(pull("millm/sharded", Quantization::Q8)).await;
    let count = |id| fixture.catalog.row(id).parameter_count;
    assert_eq!(count(native.model_id), count(quantized.model_id));
    assert_eq!(fixture.names("huggingface"), ["millm--sharded--NATIVE", "millm--sharded--Q8"]);
    let left = fixture.names("huggingface/millm--sharded--Q8");
    assert!(!left.iter().any(|name| name.contains("safetensors")), "{left:?}");
}

#[tokio::test]
async fn others_wait_in_their_order() {
    let fixture = Fixture::new([synthetic("a/first"), tiny("a/second"), tiny("a/third")]);
    let mut downloader = fixture.start().await;
    let pause = fixture.hub.pause_at("*first*/model.safetensors", 1 << 20);
    let mut ids = Vec::new();
    for repo in ["a/first", "a/second", "a/third"] {
        ids.push(downloader.pull(pull(repo, Quantization::Native)).await.unwrap().model_id);
    }
    pause.reached().await;
    let positions = |list: Vec<millm_proto::downloader::v1::Download>| {
        list.iter().map(|d| (d.model_id, d.queue_position)).collect::<Vec<_>>()
    };
    let list = positions(downloader.list().await);
    assert_eq!(list, [(ids[0], 0), (ids[1], 1), (ids[2], 2)]);
    let all = downloader.client.watch_downloads(WatchDownloadsRequest {}).await.unwrap();
    downloader.cancel(ids[1]).await.unwrap();
    let third = downloader.list().await.into_iter().find(|d| d.model_id == ids[2]).unwrap();
    assert_eq!((third.state(), third.queue_position), (State::Queued, 1));
    pause.release();
    assert_eq!(downloader.end_of(ids[2]).await.state(), State::Succeeded);
    let mut all = all.into_inner();
    let mut ended = std::collections::BTreeMap::new();
    while ended.len() < 3 {
        let snapshot = all.message().await.unwrap().unwrap();
        if crate::progress::is_final(snapshot.state()) {
            ended.insert(snapshot.model_id, snapshot.state());
        }
    }
    let expected = [(ids[0], State::Succeeded), (ids[1], State::Cancelled), (ids[2], State::Succeeded)];
    assert_eq!(ended.into_iter().collect::<Vec<_>>(), expected);
}
