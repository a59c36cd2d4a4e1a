//! GPT-2: learned positions, one matrix for q, k and v, and every matrix stored transposed.

use super::llama::{DEFAULTS, LLAMA};
use crate::arch::family::{
    AttentionScale, ConfigKeys, Defaults, Family, GgufFormat, KvHeads, LAYER_NORM, MlpWidth, Positions,
    Presence, SCALES, Scales,
};
use crate::arch::kinds::{Activation, MlpKind, RopeLayout};
use crate::arch::tensor_names::{Rows, TensorName, part, tensor, transposed};

const NAMES: &[TensorName] = &[
    tensor("token_embd.weight", "transformer.wte.weight"),
    tensor("position_embd.weight", "transformer.wpe.weight"),
    tensor("output_norm.weight", "transformer.ln_f.weight"),
    tensor("output_norm.bias", "transformer.ln_f.bias"),
    tensor("output.weight", "lm_head.weight"),
    tensor("blk.{}.attn_norm.weight", "transformer.h.{}.ln_1.weight"),
    tensor("blk.{}.attn_norm.bias", "transformer.h.{}.ln_1.bias"),
    transposed("blk.{}.attn_q.weight", "transformer.h.{}.attn.c_attn.weight", Rows::Qkv(0)),
    transposed("blk.{}.attn_k.weight", "transformer.h.{}.attn.c_attn.weight", Rows::Qkv(1)),
    transposed("blk.{}.attn_v.weight", "transformer.h.{}.attn.c_attn.weight", Rows::Qkv(2)),
    part("blk.{}.attn_q.bias", "transformer.h.{}.attn.c_attn.bias", Rows::Qkv(0)),
    part("blk.{}.attn_k.bias", "transformer.h.{}.attn.c_attn.bias", Rows::Qkv(1)),
    part("blk.{}.attn_v.bias", "transformer.h.{}.attn.c_attn.bias", Rows::Qkv(2)),
    transposed("blk.{}.attn_output.weight", "transformer.h.{}.attn.c_proj.weight", Rows::All),
    tensor("blk.{}.attn_output.bias", "transformer.h.{}.attn.c_proj.bias"),
    tensor("blk.{}.ffn_norm.weight", "transformer.h.{}.ln_2.weight"),
    tensor("blk.{}.ffn_norm.bias", "transformer.h.{}.ln_2.bias"),
    transposed("blk.{}.ffn_up.weight", "transformer.h.{}.mlp.c_fc.weight", Rows::All),
    tensor("blk.{}.ffn_up.bias", "transformer.h.{}.mlp.c_fc.bias"),
    transposed("blk.{}.ffn_down.weight", "transformer.h.{}.mlp.c_proj.weight", Rows::All),
    tensor("blk.{}.ffn_down.bias", "transformer.h.{}.mlp.c_proj.bias"),
];

/// GPT-2.
pub(super) const GPT2: Family = Family {
    architecture: "GPT2LMHeadModel",
    name: "gpt2",
    gguf: GgufFormat {
        architecture: "gpt2",
        rope: RopeLayout::Half,
        fused_qkv: true,
        rope_factors: false,
        ..LLAMA.gguf
    },
    keys: ConfigKeys {
        layers: "n_layer",
        hidden_size: "n_embd",
        heads: "n_head",
        intermediate_size: "n_inner",
        context_length: "n_positions",
        norm_eps: "layer_norm_epsilon",
        activation: "activation_function",
    },
    names: &[NAMES],
    norm: LAYER_NORM,
    mlp: MlpKind::Plain,
    qkv_bias: Presence::Always,
    output_bias: Presence::Always,
    mlp_bias: Presence::Always,
    positions: Positions::Learned,
    scales: Scales { attention: AttentionScale::ByLayer, ..SCALES },
    defaults: Defaults {
        kv_heads: KvHeads::AlwaysAsHeads,
        intermediate_size: Some(MlpWidth::Times(4)),
        context_length: 1024,
        norm_eps: 1e-5,
        activation: Activation::GeluTanh,
        tied_embeddings: true,
        ..DEFAULTS
    },
    ..LLAMA
};
