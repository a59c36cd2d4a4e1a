//! GLM-4: norms before and after attention and MLP, gate and up in one tensor, and half of each head rotated in
//! neighbouring pairs.

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA};
use crate::arch::family::{
    Defaults, Family, GgufFormat, KvHeads, Norm, Positions, Presence, RMS, ROTARY, Rotary,
};
use crate::arch::kinds::{NormPlace, RopeLayout};
use crate::arch::tensor_names::{Rows, TensorName, part, tensor};

const NAMES: &[TensorName] = &[
    tensor("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    tensor("blk.{}.post_attention_norm.weight", "model.layers.{}.post_self_attn_layernorm.weight"),
    tensor("blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    tensor("blk.{}.post_ffw_norm.weight", "model.layers.{}.post_mlp_layernorm.weight"),
    part("blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_up_proj.weight", Rows::GateUp(0)),
    part("blk.{}.ffn_up.weight", "model.layers.{}.mlp.gate_up_proj.weight", Rows::GateUp(1)),
    tensor("blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"),
];

/// GLM-4.
pub(super) const GLM4: Family = Family {
    architecture: "Glm4ForCausalLM",
    name: "glm4",
    gguf: GgufFormat { architecture: "glm4", fused_gate_up: true, rope_factors: false, ..LLAMA.gguf },
    names: &[ENDS, ATTENTION, NAMES],
    norm: Norm { place: NormPlace::BeforeAndAfter, ..RMS },
    qkv_bias: Presence::Key("attention_bias", true),
    output_bias: Presence::Never,
    mlp_bias: Presence::Never,
    positions: Positions::Rotary(Rotary {
        partial: Some(("partial_rotary_factor", 0.5)),
        layout: RopeLayout::Interleaved,
        ..ROTARY
    }),
    defaults: Defaults {
        kv_heads: KvHeads::Count(2),
        head_dim: Some(128),
        context_length: 131_072,
        norm_eps: 1.5625e-7,
        ..DEFAULTS
    },
    ..LLAMA
};
