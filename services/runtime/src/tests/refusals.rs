//! Loads and requests that are refused, with their reasons.

use std::{fs, path::Path};

use millm_kit::Reason;
use millm_proto::{
    catalog::v1::model::State,
    runtime::v1::{
        DetokenizeRequest, EstimateMemoryRequest, GenerateRequest, LoadModelRequest, LoadState, Sampling,
        generate_request::Prompt,
    },
};

use super::{
    chat,
    fixture::{Fixture, check, collect, fixtures},
    greedy, ids, question, text,
};

fn load(model: &str) -> LoadModelRequest {
    LoadModelRequest { model: model.into(), ..LoadModelRequest::default() }
}

/// Copies the tiny model's folder.
fn copy(to: &Path) {
    for entry in fs::read_dir(fixtures().join("tiny-millm")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn loads_that_are_refused() {
    let fixture = Fixture::start(&[]).await;
    check(fixture.begin_load(load("nobody")).await, Reason::ModelNotFound, "Model not found: 'nobody'.");
    check(fixture.begin_load(load("../x")).await, Reason::ModelNotFound, "");
    check(
        fixture.begin_load(load("pending")).await,
        Reason::ModelNotReady,
        "'pending' is still downloading.",
    );
    check(fixture.begin_load(load("failed")).await, Reason::ModelNotReady, "'failed' failed to download.");
    check(fixture.begin_load(load("broken")).await, Reason::ModelLoadFailed, "Failed to load: ");
    let minus = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let impatient = LoadModelRequest { drain_timeout: minus, ..load("tiny") };
    check(fixture.begin_load(impatient).await, Reason::InvalidArgument, "'drain_timeout'");
    assert!(fixture.wait(|_| true).await.models.is_empty(), "nothing is left of them");

    fixture.load("tiny").await;
    check(fixture.begin_load(load("tiny")).await, Reason::ModelAlreadyLoaded, "'tiny' is already loaded.");
    // A refused load does not evict the loaded model.
    check(fixture.begin_load(load("broken")).await, Reason::ModelLoadFailed, "");
    assert_eq!(fixture.generate(question("Hello!")).await.text, "Hello! How can I help you?");
}

#[tokio::test]
async fn invalid_files() {
    let fixture = Fixture::start(&[]).await;
    let spoiled = |id, handle: &str, file: &str, content: &str| {
        let folder = tempfile::tempdir().unwrap();
        copy(folder.path());
        fs::write(folder.path().join(file), content).unwrap();
        fixture.catalog.put(id, handle, folder.path(), State::Ready);
        folder
    };
    let _config = spoiled(11, "config", "config.json", "{");
    check(fixture.begin_load(load("config")).await, Reason::InvalidModelFile, "config.json: ");
    let alien = r#"{"architectures": ["AlienForCausalLM"], "model_type": "alien"}"#;
    let _alien = spoiled(12, "alien", "config.json", alien);
    check(fixture.begin_load(load("alien")).await, Reason::UnsupportedArchitecture, "'AlienForCausalLM'");
    let _weights = spoiled(13, "weights", "model.safetensors", "not weights");
    check(fixture.begin_load(load("weights")).await, Reason::InvalidModelFile, "model.safetensors: ");

    // An error that is found during the load: the model is listed as FAILED until the next load.
    let _tokenizer = spoiled(14, "tokenizer", "tokenizer.json", "{}");
    let last = collect(fixture.begin_load(load("tokenizer")).await.unwrap()).await.pop().unwrap();
    assert_eq!(last.state(), LoadState::Failed);
    check(
        Err::<(), _>(millm_kit::ServiceError::from_rpc(&last.error.unwrap())),
        Reason::InvalidModelFile,
        "",
    );
    let status = fixture.wait(|_| true).await;
    assert_eq!(status.models[0].state(), LoadState::Failed);
    check(fixture.begin(question("Hello!")).await, Reason::ModelNotLoaded, "No model is loaded");
    fixture.load("tiny").await;
    assert_eq!(fixture.wait(|_| true).await.models.len(), 1);
}

#[tokio::test]
async fn insufficient_memory() {
    let fixture = Fixture::start(&[("parallel_requests", "1000000000")]).await;
    check(fixture.begin_load(load("tiny")).await, Reason::InsufficientMemory, "Model requires ~");
    let request = EstimateMemoryRequest { model: "tiny".into(), context_length: 0 };
    let estimate = fixture.client.clone().estimate_memory(request).await.unwrap().into_inner();
    assert!(!estimate.fits && estimate.warning.contains("GB available"), "{estimate:?}");
    assert!(estimate.total_bytes > estimate.available_bytes && estimate.available_bytes > 0);

    // A load that is allowed anyway fails without a crash.
    let allowed = LoadModelRequest { allow_insufficient_memory: true, ..load("tiny") };
    let last = collect(fixture.begin_load(allowed).await.unwrap()).await.pop().unwrap();
    let error = millm_kit::ServiceError::from_rpc(&last.error.unwrap());
    check(Err::<(), _>(error), Reason::ModelLoadFailed, "Out of memory loading model.");
    check(fixture.begin(question("Hello!")).await, Reason::ModelNotLoaded, "");
}

#[tokio::test]
async fn estimates_follow_the_context() {
    let fixture = Fixture::start(&[]).await;
    let estimate = async |context_length| {
        let request = EstimateMemoryRequest { model: "tiny".into(), context_length };
        fixture.client.clone().estimate_memory(request).await.unwrap().into_inner()
    };
    let (short, long) = (estimate(512).await, estimate(1024).await);
    assert_eq!(long.kv_cache_bytes, 2 * short.kv_cache_bytes);
    assert_eq!(long.weights_bytes, short.weights_bytes);
    assert!(short.fits && short.device == "cpu");
    let request = EstimateMemoryRequest { model: "pending".into(), context_length: 0 };
    let refused = fixture.client.clone().estimate_memory(request).await;
    check(refused.map_err(Into::into), Reason::ModelNotReady, "");
}

#[tokio::test]
async fn requests_that_name_no_loaded_model() {
    let fixture = Fixture::start(&[]).await;
    let to = |model: &str| GenerateRequest { model: model.into(), ..question("Hello!") };
    check(fixture.begin(to("")).await, Reason::ModelNotLoaded, "No model is loaded");
    check(fixture.begin(to("tiny")).await, Reason::ModelNotLoaded, "load it with 'millm load tiny'");
    check(fixture.begin(to("nobody")).await, Reason::ModelNotFound, "'nobody'");
    check(fixture.unload("tiny", 0).await, Reason::ModelNotLoaded, "'tiny' is not loaded");
    check(fixture.unload("nobody", 0).await, Reason::ModelNotFound, "");
}

#[tokio::test]
async fn invalid_requests() {
    let fixture = Fixture::loaded(&[]).await;
    let hello = || question("Hello!");
    let sampled = |sampling| GenerateRequest { sampling: Some(sampling), ..hello() };
    let cases = [
        ("prompt", greedy()),
        ("prompt", ids(&[])),
        ("messages", chat(vec![], "")),
        ("tools_json", GenerateRequest { prompt: chat_with_tools("{"), ..hello() }),
        ("token_ids", ids(&[1, 2048])),
        ("stop", GenerateRequest { stop: vec![String::new()], ..hello() }),
        ("stop", GenerateRequest { stop: vec!["x".into(); 17], ..hello() }),
        ("logprobs", GenerateRequest { logprobs: Some(21), ..hello() }),
        ("temperature", sampled(Sampling { temperature: Some(f32::NAN), ..Sampling::default() })),
        ("top_p", sampled(Sampling { top_p: Some(2.0), ..Sampling::default() })),
    ];
    for (field, request) in cases {
        let Err(error) = fixture.begin(request).await else { panic!("{field} was taken") };
        assert_eq!(error.reason, Reason::InvalidArgument, "{error}");
        assert_eq!(error.details["field"], field, "{error}");
    }
    let long = text(&"Hello! ".repeat(3000));
    check(fixture.begin(long).await, Reason::ContextLengthExceeded, "the context holds 2048.");
    let request = DetokenizeRequest { token_ids: vec![99_999], ..DetokenizeRequest::default() };
    let refused = fixture.client.clone().detokenize(request).await;
    check(refused.map_err(Into::into), Reason::InvalidArgument, "'token_ids'");
}

fn chat_with_tools(tools: &str) -> Option<Prompt> {
    let Some(Prompt::Messages(messages)) = question("Hello!").prompt else { return None };
    chat(messages.messages, tools).prompt
}

#[tokio::test]
async fn chat_without_a_template() {
    let fixture = Fixture::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path());
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"eos_token": "<|im_end|>"}"#).unwrap();
    let _ = fs::remove_file(folder.path().join("chat_template.jinja"));
    fixture.catalog.put(21, "base", folder.path(), State::Ready);
    fixture.load("base").await;
    check(fixture.begin(question("Hello!")).await, Reason::InvalidArgument, "chat template");
    assert!(
        !fixture
            .generate(text("<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"))
            .await
            .text
            .is_empty()
    );
}

#[tokio::test]
async fn an_invalid_template_affects_only_chat() {
    let fixture = Fixture::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path());
    fs::write(folder.path().join("chat_template.jinja"), "{% for m in messages %}\n{{ m.content }").unwrap();
    fixture.catalog.put(22, "bent", folder.path(), State::Ready);
    fixture.load("bent").await;
    check(fixture.begin(question("Hello!")).await, Reason::InvalidModelFile, "line 2");
    let prompt = "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n";
    assert!(!fixture.generate(text(prompt)).await.text.is_empty());
}
