//! A model's dimensions as GGUF metadata: the `general.*` and `{architecture}.*` keys that llama.cpp and this crate's
//! reader ask for.

use super::plan::{Plan, Scheme};
use crate::arch::family::{AttentionScale, Residual, Scale};
use crate::arch::rope::{RopeScaling, RopeSpec, yarn_magnitude};
use crate::arch::spec::ModelSpec;
use crate::config::gguf::norm_key;
use crate::formats::gguf::writer::Pairs;
use crate::formats::gguf::{Array, Value};
use crate::tensor::TensorType;

/// ggml's version of the block layouts.
const QUANTIZATION_VERSION: u32 = 2;

/// Returns the tensors that hold a divisor for each rotated pair, with their names.
pub(super) fn rope_factors(spec: &ModelSpec) -> Vec<(&'static str, Vec<f32>)> {
    let Some(rope) = spec.ropes.first() else { return Vec::new() };
    match &rope.scaling {
        RopeScaling::LongRope { short, long, .. } => {
            vec![("rope_factors_long.weight", long.clone()), ("rope_factors_short.weight", short.clone())]
        }
        RopeScaling::Llama3 { .. } if spec.family.gguf.rope_factors => {
            let plain = RopeSpec::new(rope.layout, rope.dimensions(), rope.theta, RopeScaling::None);
            let pairs = plain.inverse_frequencies.iter().zip(&rope.inverse_frequencies);
            vec![("rope_freqs.weight", pairs.map(|(plain, scaled)| tidy(plain / scaled)).collect())]
        }
        RopeScaling::Factors(factors) if spec.family.gguf.rope_factors => {
            vec![("rope_freqs.weight", factors.clone())]
        }
        _ => Vec::new(),
    }
}

/// Rounds a factor: configs have round numbers, from which f32 arithmetic deviates a little.
fn tidy(factor: f32) -> f32 {
    let rounded = factor.round();
    if rounded > 0.0 && (factor / rounded - 1.0).abs() < 1e-5 { rounded } else { factor }
}

/// Returns `general.*` and the architecture's keys.
pub(super) fn describe(spec: &ModelSpec, plan: &Plan, name: &str) -> Pairs {
    let mut keys = KeyWriter {
        pairs: vec![
            ("general.architecture".into(), Value::String(spec.family.gguf.architecture.into())),
            ("general.type".into(), Value::String("model".into())),
            ("general.name".into(), Value::String(name.into())),
            ("general.file_type".into(), Value::U32(file_type(plan))),
            ("general.quantization_version".into(), Value::U32(QUANTIZATION_VERSION)),
        ],
        architecture: spec.family.gguf.architecture,
    };
    keys.count("block_count", spec.layers);
    keys.count("context_length", spec.context_length);
    keys.count("embedding_length", spec.hidden_size);
    keys.count("feed_forward_length", spec.intermediate_size);
    keys.count("attention.head_count", spec.heads);
    keys.count("attention.head_count_kv", spec.kv_heads);
    keys.count("attention.key_length", spec.head_dim);
    keys.count("attention.value_length", spec.head_dim);
    keys.count("vocab_size", spec.vocabulary_size);
    keys.float(norm_key(spec.family), spec.norm.eps as f32);
    keys.experts(spec);
    keys.ropes(spec);
    keys.windows(spec);
    keys.scales(spec);
    keys.pairs
}

/// Collects the keys, with the architecture's name before each.
struct KeyWriter {
    pairs: Pairs,
    architecture: &'static str,
}

impl KeyWriter {
    fn add(&mut self, key: &str, value: Value) {
        self.pairs.push((format!("{}.{key}", self.architecture), value));
    }

    fn count(&mut self, key: &str, value: usize) {
        self.add(key, Value::U32(value as u32));
    }

    fn float(&mut self, key: &str, value: f32) {
        self.add(key, Value::F32(value));
    }

    fn experts(&mut self, spec: &ModelSpec) {
        let Some(experts) = spec.experts else { return };
        self.count("expert_count", experts.count);
        self.count("expert_used_count", experts.used);
        self.count("expert_feed_forward_length", experts.intermediate_size);
        if !experts.normalized {
            self.add("expert_weights_norm", Value::Bool(false));
        }
    }

    fn ropes(&mut self, spec: &ModelSpec) {
        let Some(rope) = spec.ropes.first() else { return };
        self.count("rope.dimension_count", rope.dimensions());
        self.float("rope.freq_base", rope.theta as f32);
        if let Some(local) = spec.ropes.get(1) {
            self.float("rope.freq_base_swa", local.theta as f32);
        }
        match &rope.scaling {
            RopeScaling::Linear { factor } => {
                self.add("rope.scaling.type", Value::String("linear".into()));
                self.float("rope.scaling.factor", *factor);
            }
            RopeScaling::Yarn {
                factor, beta_fast, beta_slow, original_context, attention_factor, ..
            } => {
                self.add("rope.scaling.type", Value::String("yarn".into()));
                self.float("rope.scaling.factor", *factor as f32);
                self.count("rope.scaling.original_context_length", *original_context as usize);
                self.float("rope.scaling.yarn_beta_fast", *beta_fast as f32);
                self.float("rope.scaling.yarn_beta_slow", *beta_slow as f32);
                let default = yarn_magnitude(*factor, 1.0) as f32;
                if (attention_factor - default).abs() > 1e-6 {
                    self.float("rope.scaling.attn_factor", attention_factor / default);
                }
            }
            RopeScaling::LongRope { original_context, attention_factor, .. } => {
                self.count("rope.scaling.original_context_length", *original_context);
                self.float("rope.scaling.attn_factor", *attention_factor);
            }
            _ => {}
        }
    }

    fn windows(&mut self, spec: &ModelSpec) {
        let Some(window) = spec.layer_specs.iter().find_map(|layer| layer.window) else { return };
        self.count("attention.sliding_window", window);
        if spec.layer_specs.iter().any(|layer| layer.window.is_none()) {
            let windowed = spec.layer_specs.iter().map(|layer| layer.window.is_some()).collect();
            self.add("attention.sliding_window_pattern", Value::Array(Array::Bool(windowed)));
        }
    }

    fn scales(&mut self, spec: &ModelSpec) {
        let scales = &spec.family.scales;
        for (key, scale, value) in [
            ("embedding_scale", scales.embedding, spec.embedding_scale),
            ("residual_scale", scales.residual, spec.residual_scale),
            ("logit_scale", scales.logits, spec.logit_scale),
        ] {
            match scale {
                Scale::One | Scale::RootOfHidden => {}
                Scale::Times(..) => self.float(key, value),
                Scale::DividedBy(..) => self.float(key, 1.0 / value),
            }
        }
        let default = (spec.head_dim as f64).powf(-0.5) as f32;
        let scale = spec.layer_specs.first().map_or(default, |layer| layer.attention_scale);
        let differs = (scale / default - 1.0).abs() > 1e-6;
        if matches!(scales.attention, AttentionScale::Times(..)) || differs {
            self.float("attention.scale", scale);
        }
        for (key, family, cap) in [
            ("attn_logit_softcapping", scales.attention_soft_cap, spec.attention_soft_cap),
            ("final_logit_softcapping", scales.logit_soft_cap, spec.logit_soft_cap),
        ] {
            if let Some((_, default)) = family
                && (cap.is_some() || default.is_some())
            {
                self.float(key, cap.unwrap_or(0.0));
            }
        }
        if matches!(spec.family.residual, Residual::Key(..)) {
            self.add("use_parallel_residual", Value::Bool(spec.parallel_residual));
        }
    }
}

/// Returns llama.h's `llama_ftype`, the type of most of the file.
fn file_type(plan: &Plan) -> u32 {
    if plan.tensors.iter().any(|tensor| tensor.info.ty == TensorType::MXFP4) {
        return 38;
    }
    match plan.scheme {
        Scheme::Q2 => 10,
        Scheme::Q4 => 15,
        Scheme::Q8 => 7,
        Scheme::Fp16 if plan.tensors.iter().any(|tensor| tensor.info.ty == TensorType::BF16) => 32,
        Scheme::Fp16 => 1,
        Scheme::Fp32 => 0,
    }
}
