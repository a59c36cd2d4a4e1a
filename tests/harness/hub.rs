//! The fake hub of the tests: the fixtures, and repositories that must be refused.

use fake_hub::synthetic::Shape;
use fake_hub::{Content, Gated, Hub, HubBuilder, RepoSpec, RunningHub, files_of};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fixture;
use super::shards::sharded;

/// The token with access to gated and private repositories.
pub const MEMBER: &str = "hf_blackboxmembertoken";

/// A prompt of the tiny model with transformers' greedy answer.
#[derive(Debug, Deserialize)]
pub struct Tiny {
    pub messages: Vec<Value>,
    pub tools: Option<Value>,
    pub prompt: String,
    pub prompt_ids: Value,
    pub greedy_ids: Vec<u32>,
    pub greedy_text: String,
}

impl Tiny {
    /// Returns all nineteen prompts.
    pub fn references() -> Vec<Self> {
        let text = std::fs::read(fixture("tiny-millm/reference_greedy.json")).expect("it is there");
        serde_json::from_slice(&text).expect("it is what its README says")
    }

    pub fn question(&self) -> &str {
        self.messages[0]["content"].as_str().expect("messages have a content")
    }
}

/// A repository of the tests' hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixture {
    /// `millm/tiny-millm`: the trained model.
    Tiny,
    /// `millm/tiny-gguf`: llama.cpp's files of it.
    TinyGguf,
    /// `millm/changed`: the trained model with the rows of one tensor in reverse order.
    Changed,
    /// `acme/sharded`: the trained model in three files.
    Sharded,
    /// `acme/gated`: the trained model, for `MEMBER` only.
    Gated,
    /// `acme/pickle`: weights in a pickle.
    Pickle,
    /// `acme/mamba`: an architecture that miLLM does not support.
    Unsupported,
    /// `acme/custom`: a model that asks for its own code.
    CustomCode,
    /// `acme/enormous`: larger than any disk.
    Enormous,
}

/// Starts a hub with these repositories.
pub fn hub(fixtures: &[Fixture]) -> RunningHub {
    builder(fixtures).start().expect("a hub needs two ports")
}

/// Starts a hub with the trained model.
pub fn model_hub() -> RunningHub {
    hub(&[Fixture::Tiny])
}

/// Returns `acme/large`: a model of at least `mib` MiB in one file of random weights.
pub fn large(mib: u64) -> RepoSpec {
    Shape::of_mib(1, mib).repo("acme/large", &fixture("tiny-millm")).expect("the tokenizer is there")
}

fn builder(fixtures: &[Fixture]) -> HubBuilder {
    fixtures.iter().fold(Hub::builder(), |builder, fixture| builder.repo(repo(*fixture)))
}

fn repo(which: Fixture) -> RepoSpec {
    let folder = |id: &str, name: &str| RepoSpec::folder(id, &fixture(name)).expect("fixtures are readable");
    match which {
        Fixture::Tiny => folder("millm/tiny-millm", "tiny-millm"),
        Fixture::TinyGguf => folder("millm/tiny-gguf", "tiny-millm-gguf"),
        Fixture::Changed => changed(),
        Fixture::Sharded => sharded(without_weights("acme/sharded", &json!({})), 3),
        Fixture::Gated => folder("acme/gated", "tiny-millm").gated(Gated::Manual).access(MEMBER),
        Fixture::Pickle => {
            without_weights("acme/pickle", &json!({})).file("pytorch_model.bin", "\u{2}pickle")
        }
        Fixture::Unsupported => {
            let spec = json!({ "architectures": ["MambaForCausalLM"], "model_type": "mamba" });
            with_weights("acme/mamba", &spec)
        }
        Fixture::CustomCode => {
            let spec = json!({
                "architectures": ["LlamaForCausalLM"],
                "auto_map": { "AutoModelForCausalLM": "modeling.OurModel" },
            });
            with_weights("acme/custom", &spec).file("modeling.py", "raise SystemExit('never run')")
        }
        Fixture::Enormous => {
            Shape::enormous().repo("acme/enormous", &fixture("tiny-millm")).expect("the tokenizer is there")
        }
    }
}

/// Returns the trained model with other fields in its config, and without weights.
fn without_weights(id: &str, fields: &Value) -> RepoSpec {
    let folder = fixture("tiny-millm");
    let mut spec = RepoSpec::new(id);
    for (path, content) in files_of(&folder).expect("fixtures are readable") {
        if path == "config.json" {
            let text = std::fs::read(folder.join(&path)).expect("it is there");
            let mut config: Value = serde_json::from_slice(&text).expect("it is JSON");
            for (field, value) in fields.as_object().expect("fields") {
                config[field] = value.clone();
            }
            spec = spec.file(path, config.to_string());
        } else if path != "model.safetensors" {
            spec.files.push((path, content));
        }
    }
    spec
}

fn with_weights(id: &str, fields: &Value) -> RepoSpec {
    let weights = fixture("tiny-millm/model.safetensors");
    without_weights(id, fields).file("model.safetensors", weights.as_path())
}

/// Returns the trained model with the rows of one tensor in reverse: same sizes, same header, another answer.
fn changed() -> RepoSpec {
    let mut bytes = std::fs::read(fixture("tiny-millm/model.safetensors")).expect("it is there");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a safetensors header");
    let tensor = &tensors["model.embed_tokens.weight"];
    let offset = |at: usize| tensor["data_offsets"][at].as_u64().expect("an offset") as usize + 8 + header;
    let width = 2 * tensor["shape"][1].as_u64().expect("a width") as usize;
    let rows = &mut bytes[offset(0)..offset(1)];
    let reversed: Vec<u8> = rows.chunks(width).rev().flatten().copied().collect();
    rows.copy_from_slice(&reversed);
    without_weights("millm/changed", &json!({})).file("model.safetensors", Content::from(bytes))
}
