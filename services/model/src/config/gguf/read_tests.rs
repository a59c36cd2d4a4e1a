//! Dimensions from GGUF metadata: the fixture's header with one pair changed at a time.

use super::*;
use crate::arch::kinds::RopeLayout;
use crate::error::Error;
use crate::formats::gguf::{Array, GgufFile};

fn header() -> GgufHeader {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-millm-gguf/tiny-f16.gguf");
    GgufFile::open(std::path::Path::new(path)).expect("fixtures are in tests/fixtures").header().clone()
}

fn with(changes: &[(&str, Option<Value>)]) -> Result<ModelSpec> {
    let mut header = header();
    for (key, value) in changes {
        match value {
            Some(value) => header.metadata.pairs.insert((*key).to_owned(), value.clone()),
            None => header.metadata.pairs.remove(*key),
        };
    }
    ModelSpec::from_gguf(&header, &RopeFactors::default())
}

#[expect(clippy::unnecessary_wraps, reason = "as the table of overrides has it")]
fn text(text: &str) -> Option<Value> {
    Some(Value::String(text.to_owned()))
}

#[test]
fn damaged_metadata_names_the_key() {
    for (key, value) in [
        ("general.architecture", None),
        ("general.architecture", Some(Value::U32(1))),
        ("llama.block_count", Some(Value::U32(1_000_000_000))),
        ("llama.block_count", Some(Value::U32(0))),
        ("llama.block_count", Some(Value::I32(-4))),
        ("llama.block_count", text("4")),
        ("llama.block_count", None),
        ("llama.embedding_length", Some(Value::U32(255))),
        ("llama.embedding_length", Some(Value::U64(u64::MAX))),
        ("llama.attention.head_count", Some(Value::U32(0))),
        ("llama.attention.head_count", Some(Value::Array(Array::U32(Vec::new())))),
        ("llama.attention.head_count_kv", Some(Value::U32(3))),
        ("llama.attention.value_length", Some(Value::U32(16))),
        ("llama.attention.layer_norm_rms_epsilon", Some(Value::F32(f32::NAN))),
        ("llama.attention.layer_norm_rms_epsilon", Some(Value::F32(0.0))),
        ("llama.rope.dimension_count", Some(Value::U32(31))),
        ("llama.rope.dimension_count", Some(Value::U32(64))),
        ("llama.rope.freq_base", Some(Value::F32(f32::INFINITY))),
        ("tokenizer.ggml.eos_token_id", Some(Value::I32(-1))),
    ] {
        match with(&[(key, value.clone())]) {
            Err(Error::InvalidFile { why, .. }) => assert!(why.contains(key), "{key}: {why}"),
            other => panic!("{key} = {value:?}: {other:?}"),
        }
    }
}

#[test]
fn unsupported_settings_are_refused_by_name() {
    for (key, value) in [
        ("llama.expert_shared_count", Some(Value::U32(8))),
        ("llama.rope.scaling.type", text("longrope")),
        ("llama.attention.causal", Some(Value::Bool(false))),
        ("llama.logit_scale", Some(Value::F32(0.1))),
        ("llama.use_parallel_residual", Some(Value::Bool(true))),
        ("llama.attention.head_count_kv", Some(Value::Array(Array::U32(vec![4, 2, 4, 4])))),
    ] {
        match with(&[(key, value)]) {
            Err(Error::UnsupportedField { field, .. }) => assert_eq!(field, key),
            other => panic!("{key}: {other:?}"),
        }
    }
    let unknown = with(&[("general.architecture", text("bert"))]);
    assert!(matches!(unknown, Err(Error::UnsupportedArchitecture { .. })));
}

#[test]
fn scaling_is_resolved() {
    let frequencies = |spec: Result<ModelSpec>| spec.map(|mut spec| spec.ropes.remove(0).inverse_frequencies);
    let plain = frequencies(with(&[])).expect("good");
    let linear = with(&[
        ("llama.rope.scaling.type", text("linear")),
        ("llama.rope.scaling.factor", Some(Value::F32(2.0))),
    ]);
    let halved: Vec<f32> = plain.iter().map(|frequency| frequency / 2.0).collect();
    assert_eq!(frequencies(linear).expect("good"), halved);

    let divided = |factors: &[f32]| {
        let factors = RopeFactors { any: Some(factors.to_vec()), ..RopeFactors::default() };
        frequencies(ModelSpec::from_gguf(&header(), &factors))
    };
    assert_eq!(divided(&[2.0; 16]).expect("good"), halved);
    assert!(divided(&[2.0; 15]).is_err());
    assert!(divided(&[0.0; 16]).is_err());
    assert!(divided(&[f32::NAN; 16]).is_err());
}

/// miLLM's own files hold a config.json with the settings that GGUF has no key for.
#[test]
fn an_embedded_config_overrides_the_keys() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/families/mistral/config.json");
    let config = std::fs::read_to_string(path).expect("fixtures are in tests/fixtures");
    let spec = with(&[(CONFIG_JSON_KEY, text(&config))]).expect("good");
    assert_eq!(spec.architecture.as_str(), "MistralForCausalLM");
    assert!(spec.layer_specs.iter().all(|layer| layer.window == Some(8)));
    assert_eq!(spec.ropes[0].layout, RopeLayout::Interleaved, "the rows of q and k are still GGUF's");
    assert!(spec.eos_token_ids.contains(&2));
    assert!(with(&[(CONFIG_JSON_KEY, text("{"))]).is_err());
}

#[test]
fn lists_of_equal_counts_are_counts() {
    let list = Some(Value::Array(Array::U32(vec![4; 4])));
    assert_eq!(with(&[("llama.attention.head_count_kv", list)]).expect("good").kv_heads, 4);
}
