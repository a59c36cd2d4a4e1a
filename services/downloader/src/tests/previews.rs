//! Previews: exact, from headers alone, with all obstacles.

use std::{path::PathBuf, sync::Arc};

use fake_hub::{Content, Gated, READER_TOKEN, RepoSpec, synthetic::Shape};
use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{ModelPreview, PreviewModelRequest, QuantizationEstimate},
};
use serde_json::{Value, json};

use super::fixture::{FIXTURES, Fixture, Free, Running, pull, sharded, synthetic, tiny};

fn of(repo: &str) -> PreviewModelRequest {
    PreviewModelRequest { repo_id: repo.to_owned(), ..PreviewModelRequest::default() }
}

impl Running {
    async fn preview(&mut self, request: PreviewModelRequest) -> Result<ModelPreview, ServiceError> {
        Ok(self.client.preview_model(request).await?.into_inner())
    }
}

fn obstacles(preview: &ModelPreview) -> Vec<Reason> {
    preview.obstacles.iter().map(|status| ServiceError::from_rpc(status).reason).collect()
}

/// Asserts that every request for weights asked for a part, and got no more.
fn only_ranges(fixture: &Fixture) {
    for entry in fixture.hub.log() {
        if entry.path.ends_with(".safetensors") || entry.path.ends_with(".gguf") {
            let range = entry.range.clone().unwrap_or_else(|| panic!("a whole file: {entry:?}"));
            let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap();
            let length = last.parse::<u64>().unwrap() - first.parse::<u64>().unwrap() + 1;
            assert!(entry.bytes_sent <= length, "{entry:?}");
        }
    }
}

/// Asserts that the preview's numbers are the downloaded model's, for every quantization.
async fn is_exact(repo: RepoSpec, quantizations: &[Quantization]) {
    let id = repo.id.clone();
    let weights: u64 = 7 << 20;
    let fixture = Fixture::new([repo]);
    let mut downloader = fixture.start().await;
    let preview = downloader.preview(of(&id)).await.unwrap();
    assert!(preview.supported, "{}", preview.unsupported_reason);
    assert_eq!(obstacles(&preview), []);
    only_ranges(&fixture);
    let asked: u64 = fixture.bytes_sent(".safetensors") + fixture.bytes_sent(".gguf");
    assert!(asked < weights / 3, "{asked} bytes of weights");
    for estimate in &preview.estimates {
        if !quantizations.contains(&estimate.quantization()) {
            continue;
        }
        let end = downloader.fetch(pull(&id, estimate.quantization())).await;
        let row = fixture.catalog.row(end.model_id);
        assert_eq!(row.parameter_count, preview.parameter_count, "{id}");
        assert_eq!(row.memory_estimate_bytes, estimate.memory_bytes, "{id} {:?}", estimate.quantization());
        // A GGUF file holds the tokenizer, too.
        let difference = row.disk_size_bytes - estimate.disk_size_bytes;
        assert!((0..256 << 10).contains(&difference), "{id} {:?}: {difference}", estimate.quantization());
        assert!(row.disk_size_bytes <= estimate.peak_disk_bytes);
    }
}

#[tokio::test]
async fn a_preview_is_exact_whatever_the_name_says() {
    use Quantization::{Fp16, Native, Q2, Q4, Q8};
    let liar = tiny("liar/tiny-70b").info("safetensors", Value::Null);
    is_exact(liar, &[Q2, Q4, Q8, Fp16, Native]).await;
    is_exact(sharded("millm/sharded").info("safetensors", Value::Null), &[Q4, Native]).await;
    let file = PathBuf::from(FIXTURES).join("tiny-millm-gguf/tiny-Q4_K_M.gguf");
    let gguf = RepoSpec::new("liar/tiny-405b").file("any.gguf", Content::Disk(file));
    is_exact(gguf.info("gguf", Value::Null), &[Native]).await;
    let folder = PathBuf::from(FIXTURES).join("families/gpt_oss-mxfp4");
    let files = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
    let packed = files.into_iter().fold(RepoSpec::new("liar/tiny-120b"), |repo, name| {
        repo.file(name, Content::Disk(folder.join(name)))
    });
    is_exact(packed, &[Q4, Fp16, Native]).await;
}

#[tokio::test]
async fn estimates_follow_the_config_for_any_shape() {
    let fixture = Fixture::new([synthetic("o/n")]);
    let preview = fixture.start().await.preview(of("o/n")).await.unwrap();
    let sizes: Vec<_> = preview.estimates.iter().map(|estimate| estimate.disk_size_bytes).collect();
    assert_eq!(sizes.len(), 5);
    assert!(sizes[..4].windows(2).all(|pair| pair[0] < pair[1]), "{sizes:?}");
    assert!(preview.available_disk_bytes > 0);
    only_ranges(&fixture);
}

#[tokio::test]
async fn one_file_of_many_is_inspected() {
    let names = ["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"];
    let repo = names.iter().fold(RepoSpec::new("millm/gguf"), |repo, name| {
        repo.file(*name, Content::Disk(PathBuf::from(FIXTURES).join("tiny-millm-gguf").join(name)))
    });
    let fixture = Fixture::new([repo]);
    let mut downloader = fixture.start().await;
    let request = PreviewModelRequest { file: names[1].to_owned(), ..of("millm/gguf") };
    let preview = downloader.preview(request).await.unwrap();
    let selected: Vec<_> = preview.files.iter().filter(|file| file.selected).map(|file| &file.path).collect();
    assert_eq!(selected, [names[1]]);
    assert_eq!(preview.estimates.len(), 1);
    assert_eq!(fixture.bytes_sent(names[0]), 0);
}

fn with_config(id: &str, change: impl Fn(&mut Value)) -> RepoSpec {
    let mut repo = tiny(id);
    let text = std::fs::read(format!("{FIXTURES}/tiny-millm/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    change(&mut config);
    repo.files.retain(|(name, _)| name != "config.json");
    repo.file("config.json", config.to_string())
}

#[tokio::test]
async fn all_obstacles_are_listed_at_once() {
    let custom = with_config("o/custom", |config| config["auto_map"] = json!({"AutoModel": "x.Y"}));
    let strange = with_config("o/strange", |config| config["architectures"] = json!(["MambaForCausalLM"]));
    let wrong = with_config("o/wrong", |config| config["num_hidden_layers"] = json!(5));
    let mut fixture = Fixture::new([tiny("o/n"), custom, strange, wrong]);
    let mut downloader = fixture.start().await;
    let id = downloader.fetch(pull("o/n", Quantization::Q8)).await.model_id;
    let preview = downloader.preview(of("o/n")).await.unwrap();
    assert_eq!(obstacles(&preview), []);
    let there: Vec<_> = preview
        .estimates
        .iter()
        .filter(|e| e.model_id == id)
        .map(QuantizationEstimate::quantization)
        .collect();
    assert_eq!(there, [Quantization::Q8]);
    let request = PreviewModelRequest { quantization: Quantization::Q8.into(), ..of("o/n") };
    assert_eq!(obstacles(&downloader.preview(request).await.unwrap()), [Reason::ModelAlreadyExists]);

    let preview = downloader.preview(of("o/custom")).await.unwrap();
    assert!(preview.supported && preview.requires_trust_remote_code);
    assert_eq!(obstacles(&preview), [Reason::RemoteCodeRequired]);
    let request = PreviewModelRequest { trust_remote_code: true, ..of("o/custom") };
    assert_eq!(obstacles(&downloader.preview(request).await.unwrap()), []);

    let preview = downloader.preview(of("o/strange")).await.unwrap();
    assert!(!preview.supported && preview.parameter_count > 3_000_000 && preview.estimates.is_empty());
    assert_eq!(obstacles(&preview), [Reason::UnsupportedArchitecture]);

    let preview = downloader.preview(of("o/wrong")).await.unwrap();
    assert_eq!(obstacles(&preview), [Reason::InvalidModelFile]);
    assert!(preview.unsupported_reason.contains("blk.4.attn_norm.weight"), "{}", preview.unsupported_reason);

    downloader.stop().await;
    fixture.disk = Some(Arc::new(Free(20 << 20)));
    let mut downloader = fixture.start().await;
    let preview = downloader.preview(of("o/custom")).await.unwrap();
    assert_eq!(obstacles(&preview), [Reason::RemoteCodeRequired, Reason::InsufficientDisk]);
    assert_eq!(preview.available_disk_bytes, 20 << 20);
    // The preview and the download give the same error.
    let refused = downloader.pull(pull("o/custom", Quantization::Q4)).await.unwrap_err();
    assert_eq!(refused, ServiceError::from_rpc(&preview.obstacles[0]));
    assert_eq!(fixture.catalog.rows().len(), 1, "a preview leaves nothing");
}

#[tokio::test]
async fn preview_and_download_need_the_same_room() {
    let enormous = Shape::enormous().repo("o/enormous", format!("{FIXTURES}/tiny-millm").as_ref()).unwrap();
    let mut fixture = Fixture::new([enormous]);
    fixture.disk = Some(Arc::new(Free(64 << 20)));
    let mut downloader = fixture.start().await;
    let preview = downloader.preview(of("o/enormous")).await.unwrap();
    let refused = downloader.pull(pull("o/enormous", Quantization::Q4)).await.unwrap_err();
    assert_eq!(preview.obstacles.iter().map(ServiceError::from_rpc).collect::<Vec<_>>(), [refused]);
}

#[tokio::test]
async fn gated_repositories_are_reported() {
    let fixture = Fixture::new([tiny("o/n").gated(Gated::Manual).access("hf_good")]);
    let mut downloader = fixture.start().await;
    let with = |token: &str| PreviewModelRequest { hf_token: token.to_owned(), ..of("o/n") };
    let refused = async |downloader: &mut Running, request| downloader.preview(request).await.unwrap_err();
    assert_eq!(refused(&mut downloader, of("o/n")).await.reason, Reason::GatedModelNoToken);
    assert_eq!(refused(&mut downloader, with("hf_wrong")).await.reason, Reason::InvalidHfToken);
    assert_eq!(refused(&mut downloader, with(READER_TOKEN)).await.reason, Reason::GatedModelNoAccess);
    for _ in 0..2 {
        assert!(downloader.preview(with("hf_good")).await.unwrap().gated);
    }
    let asked = fixture.hub.log().iter().filter(|entry| entry.path == "/api/whoami-v2").count();
    assert_eq!(asked, 2, "once for each token that the hub did not reject at once");
}
