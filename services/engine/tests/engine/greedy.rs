//! Compares whole greedy answers of the trained model with transformers' (f32), for each type of weights.

use millm_engine::{EngineOptions, KernelSet, KvType};

use crate::fixtures::{Answer, engine, fixture, greedy, kernel_sets, options, start};

/// Returns `(prompt ids, answer ids)` of each prompt.
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

/// Checks on each kernel set that at least `least` of the 19 answers are equal, with all prompts in one batch.
fn check(path: &str, kv_type: KvType, least: usize) {
    for kernels in kernel_sets() {
        let equal = equal(path, kv_type, kernels);
        assert!(equal >= least, "{path} on {kernels}: {equal} of 19 answers are equal");
    }
}

/// Returns how many answers are equal.
fn equal(path: &str, kv_type: KvType, kernels: KernelSet) -> usize {
    let engine = engine(path, &EngineOptions { kv_type, kernels: Some(kernels), ..options() });
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
    check("tiny-millm", KvType::F32, 19);
    check("tiny-millm", KvType::F16, 19);
}

#[test]
fn f16() {
    check("tiny-millm-gguf/tiny-f16.gguf", KvType::F16, 19);
}

#[test]
fn q8_0() {
    check("tiny-millm-gguf/tiny-Q8_0.gguf", KvType::F16, 19);
}

#[test]
fn q4_k_m() {
    check("tiny-millm-gguf/tiny-Q4_K_M.gguf", KvType::F16, 17);
}

#[test]
fn q4_0() {
    check("tiny-millm-gguf/tiny-Q4_0.gguf", KvType::F16, 17);
}

#[test]
fn q2_k() {
    check("tiny-millm-gguf/tiny-Q2_K.gguf", KvType::F16, 17);
}
