//! Whole greedy answers of the trained model against transformers' (f32), for each way its weights are stored.

use millm_engine::KvType;

use crate::fixtures::{Answer, engine, fixture, greedy, options, start};

/// `(prompt ids, answer ids)` of each prompt.
fn reference() -> Vec<(Vec<u32>, Vec<u32>)> {
    let text = std::fs::read_to_string(fixture("tiny-millm/reference_greedy.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |value: &serde_json::Value| serde_json::from_value::<Vec<u32>>(value.clone()).unwrap();
    cases
        .as_array()
        .unwrap()
        .iter()
        .map(|case| (ids(&case["prompt_ids"]), ids(&case["greedy_ids"])))
        .collect()
}

/// How many of the answers are equal, all prompts asked at once.
fn equal(path: &str, kv_type: KvType) -> usize {
    let engine = engine(path, &millm_engine::EngineOptions { kv_type, ..options() });
    let reference = reference();
    assert_eq!(reference.len(), 19);
    let running: Vec<_> = reference
        .iter()
        .map(|(prompt, answer)| {
            let mut request = greedy(prompt, answer.len());
            request.stop_token_ids.clone_from(&engine.spec().eos_token_ids);
            start(&engine, request)
        })
        .collect();
    let answers = running.iter().map(Answer::gather);
    answers.zip(&reference).filter(|(answer, (_, expected))| answer.ids() == *expected).count()
}

#[test]
fn bf16_is_exact() {
    assert_eq!(equal("tiny-millm", KvType::F32), 19);
    assert_eq!(equal("tiny-millm", KvType::F16), 19);
}

#[test]
fn f16() {
    assert_eq!(equal("tiny-millm-gguf/tiny-f16.gguf", KvType::F16), 19);
}

#[test]
fn q8_0() {
    assert_eq!(equal("tiny-millm-gguf/tiny-Q8_0.gguf", KvType::F16), 19);
}

#[test]
fn q4_k_m() {
    assert!(equal("tiny-millm-gguf/tiny-Q4_K_M.gguf", KvType::F16) >= 17);
}

#[test]
fn q4_0() {
    assert!(equal("tiny-millm-gguf/tiny-Q4_0.gguf", KvType::F16) >= 17);
}

#[test]
fn q2_k() {
    assert!(equal("tiny-millm-gguf/tiny-Q2_K.gguf", KvType::F16) >= 17);
}
