//! Refuses config keys that change what some model computes and that the family at hand does not read, unless they hold
//! the value under which they change nothing.

use serde_json::Value;

use super::fields::Fields;
use crate::error::Result;

/// The value, beside absent and null, under which a key changes nothing.
enum Harmless {
    /// None: only absent or null.
    Absent,
    False,
    True,
    One,
    Zero,
}

/// The keys, with the value under which each changes nothing.
const KEYS: &[(&str, Harmless)] = &[
    // Weights are stored packed by another library.
    ("quantization_config", Harmless::Absent),
    ("compression_config", Harmless::Absent),
    // Another attention.
    ("use_bidirectional_attention", Harmless::False),
    ("is_encoder_decoder", Harmless::False),
    ("add_cross_attention", Harmless::False),
    ("attn_logit_softcapping", Harmless::Absent),
    ("final_logit_softcapping", Harmless::Absent),
    ("attention_chunk_size", Harmless::Absent),
    ("is_causal", Harmless::True),
    ("per_layer_config", Harmless::Absent),
    ("attention_sink", Harmless::False),
    ("attn_output_gate", Harmless::False),
    ("attn_temperature_tuning", Harmless::False),
    ("query_pre_attn_scalar", Harmless::Absent),
    ("scale_attn_by_inverse_layer_idx", Harmless::False),
    ("scale_attn_weights", Harmless::True),
    ("qk_layernorm", Harmless::False),
    ("use_qk_norm", Harmless::False),
    ("clip_qkv", Harmless::Absent),
    ("alibi", Harmless::False),
    // Other positions.
    ("partial_rotary_factor", Harmless::One),
    ("rotary_pct", Harmless::One),
    ("no_rope_layers", Harmless::Absent),
    ("no_rope_layer_interval", Harmless::Absent),
    ("rope_interleaved", Harmless::False),
    ("rope_local_base_freq", Harmless::Absent),
    ("rope_parameters", Harmless::Absent),
    ("rope_scaling", Harmless::Absent),
    // Another residual stream.
    ("attention_multiplier", Harmless::Absent),
    ("residual_multiplier", Harmless::One),
    ("embedding_multiplier", Harmless::One),
    ("logits_scaling", Harmless::One),
    ("logit_scale", Harmless::One),
    ("use_parallel_residual", Harmless::False),
    ("parallel_attn", Harmless::False),
    // Experts.
    ("num_local_experts", Harmless::Zero),
    ("num_experts", Harmless::Zero),
    ("n_routed_experts", Harmless::Zero),
    ("n_shared_experts", Harmless::Zero),
    ("shared_expert_intermediate_size", Harmless::Zero),
    ("swiglu_alpha", Harmless::Absent),
    ("swiglu_limit", Harmless::Absent),
];

/// Refuses the first such key that no reader has asked for.
pub(super) fn unread_keys(config: &Fields<'_>) -> Result<()> {
    for (key, value) in config.unread() {
        let Some((_, harmless)) = KEYS.iter().find(|(known, _)| *known == key) else { continue };
        let number = |expected: f64| value.as_f64() == Some(expected);
        let is_harmless = match harmless {
            Harmless::Absent => false,
            Harmless::False => value == &Value::Bool(false),
            Harmless::True => value == &Value::Bool(true),
            Harmless::One => number(1.0),
            Harmless::Zero => number(0.0),
        };
        if !is_harmless {
            return Err(config.unsupported(key));
        }
    }
    Ok(())
}
