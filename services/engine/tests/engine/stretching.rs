//! Models that turn keys by how long the prompt is: pages are shared among prompts of one stretch only.

use millm_engine::{Engine, EngineOptions, KvType};
use millm_model::Checkpoint;
use serde_json::{Value, json};

use crate::fixtures::{Answer, answer, fixture, greedy, options, start};

const PAGE: usize = millm_engine::pages::PAGE;

/// Ids and, to the bit, their log probabilities.
type Told = Vec<(u32, u32)>;

/// A family's fixture under another config.
struct Stretched(tempfile::TempDir);

impl Stretched {
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

fn told(answer: &Answer) -> Told {
    answer.tokens.iter().map(|token| (token.id, token.logprob.unwrap().to_bits())).collect()
}

/// Prompts with so many tokens beside the `shared` first ones: each answered as if alone, whether they come one after the
/// other or together. In the former case these many tokens must be found in the cache.
fn check(model: &Stretched, shared: usize, own: &[usize], cached: &[usize]) {
    let requests = || {
        let own = own.iter().enumerate();
        own.map(|(seed, length)| {
            let prompt = [tokens(0, shared), tokens(seed as u32 + 1, *length)].concat();
            millm_engine::Request { logprobs: Some(0), ignore_eos: true, ..greedy(&prompt, 20) }
        })
    };
    let alone: Vec<Told> = requests().map(|request| told(&answer(&model.engine(), request))).collect();
    let engine = model.engine();
    let in_turn: Vec<Answer> = requests().map(|request| answer(&engine, request)).collect();
    assert_eq!(in_turn.iter().map(|answer| answer.cached).collect::<Vec<_>>(), cached);
    assert_eq!(in_turn.iter().map(told).collect::<Vec<_>>(), alone);
    let engine = model.engine();
    let running: Vec<_> = requests().map(|request| start(&engine, request)).collect();
    assert_eq!(running.iter().map(|events| told(&Answer::gather(events))).collect::<Vec<_>>(), alone);
}

#[test]
fn longrope_has_one_kind_of_keys_within_its_original_context_and_one_beyond() {
    let factors = |first: f64, step: f64| (0..8).map(|i| first + step * f64::from(i)).collect::<Vec<_>>();
    let scaling = json!({
        "type": "longrope", "short_factor": factors(1.0, 0.1), "long_factor": factors(2.0, 0.5),
    });
    let changes = json!({ "rope_scaling": scaling, "original_max_position_embeddings": 48 });
    // The first three answer across the border.
    check(&Stretched::new("phi3", changes), PAGE + 8, &[0, 3, 4, 60, 80, 8], &[0, PAGE, PAGE, 0, PAGE, PAGE]);
}

#[test]
fn dynamic_rope_has_keys_of_their_own_for_each_length_beyond_its_context() {
    let changes = json!({ "rope_parameters": { "rope_theta": 1e4, "rope_type": "dynamic", "factor": 4.0 }, "max_position_embeddings": 48 });
    check(&Stretched::new("llama", changes), PAGE + 8, &[0, 3, 60, 61, 60, 61], &[0, PAGE, 0, 0, PAGE, PAGE]);
}
