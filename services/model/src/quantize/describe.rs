//! A model's dimensions as GGUF metadata: the `general.*` and `{architecture}.*` keys that llama.cpp and our own
//! reader ask for.

use serde_json::{Map, Value as Json};

use super::plan::{Plan, Scheme};
use crate::gguf::writer::Pairs;
use crate::gguf::{Array, Value};
use crate::spec::ModelSpec;
use crate::tensor::TensorType;

/// ggml's version of the block layouts.
const QUANTIZATION_VERSION: u32 = 2;
/// Frequencies that differ less than this (relatively) are the same: two ways of computing one in f32.
const SAME: f32 = 1e-5;

/// How a model's rotary frequencies are said in GGUF.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    pub base: f32,
    /// Positions are divided by it; 1 for none.
    pub linear: f32,
    /// For `rope_freqs.weight`: what each plain frequency is divided by, where that is not one number.
    pub factors: Option<Vec<f32>>,
}

/// Recovers base and scaling from the resolved frequencies; `config` tells the base where there is a config.json.
pub(super) fn rope(spec: &ModelSpec, config: Option<&Map<String, Json>>) -> Rope {
    let frequencies = &spec.rope.inverse_frequencies;
    let base = config.and_then(theta).unwrap_or(spec.family.defaults.rope_theta);
    let dimensions = 2 * frequencies.len();
    let factors: Vec<f32> = frequencies
        .iter()
        .enumerate()
        .map(|(i, frequency)| (base.powf(-2.0 * i as f64 / dimensions as f64) / f64::from(*frequency)) as f32)
        .map(tidy)
        .collect();
    let first = factors.first().copied().unwrap_or(1.0);
    if factors.iter().all(|factor| (factor / first - 1.0).abs() < SAME) {
        return Rope { base: base as f32, linear: first, factors: None };
    }
    Rope { base: base as f32, linear: 1.0, factors: Some(factors) }
}

/// Factors are round numbers in configs; what f32 made of them is rounded back.
fn tidy(factor: f32) -> f32 {
    let rounded = factor.round();
    if rounded > 0.0 && (factor / rounded - 1.0).abs() < SAME { rounded } else { factor }
}

fn theta(config: &Map<String, Json>) -> Option<f64> {
    let within = |key: &str| config.get(key).and_then(|rope| rope.get("rope_theta")).and_then(Json::as_f64);
    within("rope_parameters")
        .or_else(|| within("rope_scaling"))
        .or_else(|| config.get("rope_theta").and_then(Json::as_f64))
}

/// `general.*` and the architecture's keys.
pub(super) fn describe(spec: &ModelSpec, rope: &Rope, plan: &Plan, name: &str) -> Pairs {
    let architecture = spec.family.gguf_architecture;
    let mut keys: Pairs = vec![
        ("general.architecture".into(), Value::String(architecture.into())),
        ("general.type".into(), Value::String("model".into())),
        ("general.name".into(), Value::String(name.into())),
        ("general.file_type".into(), Value::U32(file_type(plan))),
        ("general.quantization_version".into(), Value::U32(QUANTIZATION_VERSION)),
    ];
    let mut add = |key: &str, value: Value| keys.push((format!("{architecture}.{key}"), value));
    let mut count = |key: &str, value: usize| add(key, Value::U32(value as u32));
    count("block_count", spec.layers);
    count("context_length", spec.context_length);
    count("embedding_length", spec.hidden_size);
    count("feed_forward_length", spec.intermediate_size);
    count("attention.head_count", spec.heads);
    count("attention.head_count_kv", spec.kv_heads);
    count("attention.key_length", spec.head_dim);
    count("attention.value_length", spec.head_dim);
    count("vocab_size", spec.vocabulary_size);
    count("rope.dimension_count", 2 * spec.rope.inverse_frequencies.len());
    add("attention.layer_norm_rms_epsilon", Value::F32(spec.norm_eps as f32));
    add("rope.freq_base", Value::F32(rope.base));
    #[expect(clippy::float_cmp, reason = "1 is written out, not computed")]
    if rope.linear != 1.0 {
        add("rope.scaling.type", Value::String("linear".into()));
        add("rope.scaling.factor", Value::F32(rope.linear));
    }
    if let Some(window) = spec.sliding_window.iter().flatten().next() {
        add("attention.sliding_window", Value::U32(*window as u32));
        if spec.sliding_window.iter().any(Option::is_none) {
            let windowed = spec.sliding_window.iter().map(Option::is_some).collect();
            add("attention.sliding_window_pattern", Value::Array(Array::Bool(windowed)));
        }
    }
    keys
}

/// llama.h's `llama_ftype`: what most of the file is.
fn file_type(plan: &Plan) -> u32 {
    match plan.scheme {
        Scheme::Q2 => 10,
        Scheme::Q4 => 15,
        Scheme::Q8 => 7,
        Scheme::Fp16 if plan.tensors.iter().any(|tensor| tensor.info.ty == TensorType::BF16) => 32,
        Scheme::Fp16 => 1,
        Scheme::Fp32 => 0,
    }
}
