//! Models that choose RoPE frequencies by the length of the prompt: blocks are shared within one regime only.

use millm_engine::{BLOCK_SIZE, Engine, EngineOptions, KvType};
use millm_model::Checkpoint;
use serde_json::{Value, json};

use crate::fixtures::{Answer, answer, fixture, greedy, options, start};

/// Token ids with the bits of their log-probabilities.
type TokenBits = Vec<(u32, u32)>;

/// A family's fixture with another config.
struct Modified(tempfile::TempDir);

impl Modified {
    fn new(family: &str, changes: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let from = fixture(&format!("families/{family}"));
        std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(from.join("config.json")).unwrap()).unwrap();
        let Value::Object(changes) = changes else { panic!("keys") };
        config.as_object_mut().unwrap().extend(changes);
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Self(folder)
    }

    fn engine(&self) -> Engine {
        let options = EngineOptions { context_length: None, kv_type: KvType::F32, ..options() };
        Engine::load(&Checkpoint::open(self.0.path()).unwrap(), &options, &mut |_| {}).unwrap()
    }
}

fn tokens(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|j| 3 + (17 * seed + 5 * j + j * j % 7) % 120).collect()
}

fn token_bits(answer: &Answer) -> TokenBits {
    answer.tokens.iter().map(|token| (token.id, token.logprob.unwrap().to_bits())).collect()
}

/// Checks that prompts of `shared` equal tokens and `own` different ones are answered as if alone, whether they come
/// one after the other or together. One after the other, they must find `cached` tokens in the cache.
fn check(model: &Modified, shared: usize, own: &[usize], cached: &[usize]) {
    let requests = || {
        let own = own.iter().enumerate();
        own.map(|(seed, length)| {
            let prompt = [tokens(0, shared), tokens(seed as u32 + 1, *length)].concat();
            millm_engine::Request { logprobs: Some(0), ignore_eos: true, ..greedy(&prompt, 20) }
        })
    };
    let alone: Vec<TokenBits> =
        requests().map(|request| token_bits(&answer(&model.engine(), request))).collect();
    let engine = model.engine();
    let in_turn: Vec<Answer> = requests().map(|request| answer(&engine, request)).collect();
    assert_eq!(in_turn.iter().map(|answer| answer.cached).collect::<Vec<_>>(), cached);
    assert_eq!(in_turn.iter().map(token_bits).collect::<Vec<_>>(), alone);
    let engine = model.engine();
    let running: Vec<_> = requests().map(|request| start(&engine, request)).collect();
    assert_eq!(running.iter().map(|events| token_bits(&Answer::gather(events))).collect::<Vec<_>>(), alone);
}

#[test]
fn longrope_has_one_regime_within_its_original_context_and_one_beyond() {
    let factors = |first: f64, step: f64| (0..8).map(|i| first + step * f64::from(i)).collect::<Vec<_>>();
    let scaling = json!({
        "type": "longrope", "short_factor": factors(1.0, 0.1), "long_factor": factors(2.0, 0.5),
    });
    let changes = json!({ "rope_scaling": scaling, "original_max_position_embeddings": 48 });
    // The first three answers cross the border.
    check(
        &Modified::new("phi3", changes),
        BLOCK_SIZE + 8,
        &[0, 3, 4, 60, 80, 8],
        &[0, BLOCK_SIZE, BLOCK_SIZE, 0, BLOCK_SIZE, BLOCK_SIZE],
    );
}

#[test]
fn dynamic_rope_has_a_regime_for_each_length_beyond_its_context() {
    let changes = json!({ "rope_parameters": { "rope_theta": 1e4, "rope_type": "dynamic", "factor": 4.0 }, "max_position_embeddings": 48 });
    check(
        &Modified::new("llama", changes),
        BLOCK_SIZE + 8,
        &[0, 3, 60, 61, 60, 61],
        &[0, BLOCK_SIZE, 0, 0, BLOCK_SIZE, BLOCK_SIZE],
    );
}
