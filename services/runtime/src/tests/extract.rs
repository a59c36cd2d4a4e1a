//! Extractions to their end: files, statistics, shards, replays, and what is estimated before.

use millm_extraction::{DataType, Header};
use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::{ActivationType, dataset_column::Kind},
    inspection::v1::{
        ActivationChunk, EstimateExtractionRequest, ExtractionConfig, ReadActivationsRequest,
        ReplayExtractionRequest, extraction::State, read_activations_request::Source,
    },
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    datasets::{checksums, config},
    fixture::{Fixture, check, collect},
};

const TEXTS: [&str; 4] =
    ["The capital of Japan is Tokyo.", "", "Tell me a happy story about Mia.", "What color is snow?"];

async fn with_texts() -> Fixture {
    let fixture = Fixture::loaded(&[]).await;
    fixture.datasets.put_texts(1, "stories", &TEXTS);
    fixture
}

async fn json_of(fixture: &Fixture, id: &str, file: &str) -> Value {
    serde_json::from_slice(&fixture.read(id, file, 0, 0).await.unwrap().0).unwrap()
}

async fn activations(fixture: &Fixture, request: ReadActivationsRequest) -> Vec<ActivationChunk> {
    collect(fixture.inspection.clone().read_activations(request).await.unwrap().into_inner()).await
}

#[tokio::test]
async fn files_have_what_the_model_computes() {
    let fixture = with_texts().await;
    let shown = fixture.extract(config("stories", &["residual", "attn_pattern.0", "logits"], |_| {})).await;
    assert_eq!((shown.samples_done, shown.samples_total, shown.model_handle.as_str()), (3, 3, "tiny"));
    assert_eq!(shown.dataset_handle, "stories");
    assert!(shown.start_time.is_some() && shown.end_time.is_some() && shown.disk_bytes > 0);

    // Every file can be read, whole and in parts, and has its checksum.
    for file in &shown.files {
        let (bytes, size) = fixture.read(&shown.name, &file.name, 0, 0).await.unwrap();
        assert_eq!((bytes.len() as i64, size as i64), (file.size_bytes, file.size_bytes), "{}", file.name);
        assert_eq!(hex::encode(Sha256::digest(&bytes)), file.sha256, "{}", file.name);
        let (part, _) = fixture.read(&shown.id, &file.name, 5, 7).await.unwrap();
        assert_eq!(part, bytes[5..12]);
    }
    let metadata = json_of(&fixture, &shown.id, "metadata.json").await;
    assert_eq!(metadata["engine"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(metadata["dataset"]["column"], "text");
    assert_eq!(
        metadata["plan"],
        json!({"rows": 4, "empty_rows": 1, "cut_rows": 0, "samples": 3,
        "longest": metadata["sequence_length"]})
    );
    assert_eq!(metadata["model"]["tokenizer_sha256"].as_str().unwrap().len(), 64);
    let statistics = json_of(&fixture, &shown.id, "statistics.json").await;
    assert_eq!(statistics["points"][0]["tokens"].as_u64(), Some(shown.tokens_done));

    // The activations of the same tokens as prompts are the same, to the bit.
    let of_job = ReadActivationsRequest {
        source: Some(Source::Extraction(shown.name.clone())),
        points: vec!["resid_post.0".into(), "logits".into()],
        ..ReadActivationsRequest::default()
    };
    let chunks = activations(&fixture, of_job).await;
    assert_eq!(chunks.len(), 6, "one for each point and sample");
    let prompts = chunks[..3].iter().map(|chunk| chunk.token_ids.clone()).collect::<Vec<_>>();
    assert_eq!(prompts.iter().map(Vec::len).sum::<usize>() as u64, shown.tokens_done);
    let mut live =
        activations(&fixture, super::activations::prompts(&prompts, &["resid_post.0", "logits"])).await;
    live.sort_by_key(|chunk| (chunk.point == "logits", chunk.sample, chunk.position));
    for chunk in &chunks {
        let same = live.iter().filter(|other| (&other.point, other.sample) == (&chunk.point, chunk.sample));
        let data: Vec<u8> = same.flat_map(|other| other.data.clone()).collect();
        assert_eq!(data, chunk.data, "{} of sample {}", chunk.point, chunk.sample);
    }
}

#[tokio::test]
async fn arrays_open_in_numpy() {
    let fixture = with_texts().await;
    let settings = |settings: &mut millm_proto::catalog::v1::ExtractionSettings| {
        settings.dtype = ActivationType::F16.into();
        settings.sequence_length = 8;
        settings.positions = "-1,0".into();
    };
    let shown = fixture.extract(config("stories", &["z.1"], settings)).await;
    let metadata = json_of(&fixture, &shown.id, "metadata.json").await;
    let shape: Vec<u64> = serde_json::from_value(metadata["arrays"][0]["shape"].clone()).unwrap();
    assert_eq!((shape.len(), &shape[..2]), (4, &[3, 2][..]));
    let (bytes, _) = fixture.read(&shown.id, "z.layer1.npy", 0, 0).await.unwrap();
    let header = Header { dtype: DataType::F16, shape }.to_bytes();
    assert_eq!(bytes[..header.len()], header);
    let (tokens, _) = fixture.read(&shown.id, "tokens.npy", 0, 0).await.unwrap();
    let header = Header { dtype: DataType::I32, shape: vec![3, 8] }.to_bytes();
    assert_eq!((tokens.len(), &tokens[..header.len()]), (header.len() + 3 * 8 * 4, &header[..]));
}

#[tokio::test]
async fn batches_do_not_matter() {
    let fixture = with_texts().await;
    let mut all = Vec::new();
    for batch in [1, 2, 0] {
        let asked = config("stories", &["residual", "mlp"], |settings| settings.batch_size = batch);
        all.push(checksums(&fixture.extract(asked).await));
    }
    assert!(all[0] == all[1] && all[1] == all[2], "{all:#?}");
}

#[tokio::test]
async fn shards_join_to_one_jobs_files() {
    let fixture = with_texts().await;
    let asked = |index, count| ExtractionConfig {
        shard_index: index,
        shard_count: count,
        ..config("stories", &["residual"], |settings| {
            (settings.pack, settings.split, settings.sequence_length) = (true, true, 5);
        })
    };
    let whole = fixture.extract(asked(0, 0)).await;
    let mut folders = Vec::new();
    for index in 0..3 {
        let shard = fixture.extract(asked(index, 3)).await;
        folders.push(fixture.activations.path().join(&shard.id));
    }
    let out = tempfile::tempdir().unwrap();
    let run = millm_extraction::RunFacts::default();
    let merged = millm_extraction::merge(&folders, out.path(), run, &mut |_| true).unwrap();
    let merged = merged.all_files().map(|file| (file.name, file.sha256)).collect();
    assert_eq!(checksums(&whole), merged);
}

#[tokio::test]
async fn messages_and_token_ids_are_read() {
    let fixture = Fixture::loaded(&[]).await;
    let messages = json!([{"role": "user", "content": "Hello!"}]);
    fixture.datasets.put(1, "chats", &[json!({"text": messages}).to_string()], Kind::Messages);
    fixture.datasets.put(2, "ids", &[json!({"text": [5, 6, 7]}).to_string()], Kind::TokenIds);
    fixture.datasets.put_texts(3, "texts", &["Hello!"]);

    let chat = |settings: &mut millm_proto::catalog::v1::ExtractionSettings| settings.chat_template = true;
    let of_messages = fixture.extract(config("chats", &["embed"], chat)).await;
    let of_text = fixture.extract(config("texts", &["embed"], chat)).await;
    let tokens = |shown| checksums(shown)["tokens.npy"].clone();
    assert_eq!(tokens(&of_messages), tokens(&of_text), "a text is a message of the user");
    let of_ids = fixture.extract(config("ids", &["embed"], |_| {})).await;
    let (bytes, _) = fixture.read(&of_ids.id, "tokens.npy", 0, 0).await.unwrap();
    assert_eq!(bytes[bytes.len() - 12..], [5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0]);

    check(
        fixture.start_extraction(config("chats", &["embed"], |_| {})).await,
        Reason::InvalidArgument,
        "messages",
    );
    check(
        fixture.start_extraction(config("ids", &["embed"], chat)).await,
        Reason::InvalidArgument,
        "token ids",
    );
}

#[tokio::test]
async fn a_replay_is_identical_or_shows_the_first_difference() {
    let fixture = with_texts().await;
    let first = fixture.extract(config("stories", &["residual"], |_| {})).await;
    let replay = |name: &str| ReplayExtractionRequest { name: name.into() };
    let again = fixture.inspection.clone().replay_extraction(replay(&first.name)).await.unwrap().into_inner();
    let again = fixture.over(&again.id).await;
    assert_eq!(
        (again.state(), again.replay_of.as_str()),
        (State::Succeeded, first.name.as_str()),
        "{again:?}"
    );
    assert!(again.replay.unwrap().identical);

    // The first job's array is another than it was.
    let folder = fixture.activations.path().join(&first.id);
    let path = folder.join("resid_post.layer1.npy");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last - 4 * 64 * 2] ^= 0x40;
    std::fs::write(&path, bytes).unwrap();
    let metadata = folder.join("metadata.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    json["arrays"][1]["sha256"] = "0".into();
    std::fs::write(&metadata, json.to_string()).unwrap();
    let again = fixture.inspection.clone().replay_extraction(replay(&first.id)).await.unwrap().into_inner();
    let found = fixture.over(&again.id).await.replay.unwrap();
    assert!(!found.identical && found.file == "resid_post.layer1.npy", "{found:?}");
    assert!(found.message.contains("position"), "{found:?}");

    let missing = fixture.inspection.clone().replay_extraction(replay("nothing")).await;
    check(missing.map_err(ServiceError::from), Reason::ExtractionNotFound, "nothing");
}

#[tokio::test]
async fn extractions_are_estimated() {
    let fixture = with_texts().await;
    let estimate = |config: ExtractionConfig| {
        let mut client = fixture.inspection.clone();
        async move {
            let request = EstimateExtractionRequest { config: Some(config) };
            client
                .estimate_extraction(request)
                .await
                .map(tonic::Response::into_inner)
                .map_err(ServiceError::from)
        }
    };
    let asked = config("stories", &["residual"], |settings| settings.sequence_length = 32);
    let known = estimate(asked).await.unwrap();
    assert_eq!((known.samples, known.sequence_length), (4, 32));
    assert!(
        known.points[0] == "resid_post.0" && known.batch_size > 0 && known.obstacles.is_empty(),
        "{known:?}"
    );
    assert!(known.disk_bytes > 0 && known.available_disk_bytes > 0 && known.memory_bytes < 200_000_000);

    // A model that is not loaded, and a dataset that does not exist, are obstacles.
    let other = ExtractionConfig { model: "tiny-q8".into(), ..config("nothing", &["mlp"], |_| {}) };
    let reasons: Vec<Reason> = estimate(other)
        .await
        .unwrap()
        .obstacles
        .iter()
        .map(|status| ServiceError::from_rpc(status).reason)
        .collect();
    assert_eq!(reasons, [Reason::ModelNotLoaded, Reason::DatasetNotFound]);
    check(estimate(config("stories", &["x"], |_| {})).await, Reason::HookPointUnknown, "'x'");
}
