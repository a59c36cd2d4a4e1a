//! GPT-NeoX and Pythia: q, k and v of each head next to each other, and a parallel residual.

use super::llama::{DEFAULTS, LLAMA};
use crate::arch::family::{
    CONFIG_KEYS, ConfigKeys, Defaults, Family, GgufFormat, KvHeads, LAYER_NORM, Positions, Presence, ROTARY,
    Residual, Rotary,
};
use crate::arch::kinds::{Activation, MlpKind, RopeLayout};
use crate::arch::tensor_names::{Rows, TensorName, part, tensor};

const NAMES: &[TensorName] = &[
    tensor("token_embd.weight", "gpt_neox.embed_in.weight"),
    tensor("output_norm.weight", "gpt_neox.final_layer_norm.weight"),
    tensor("output_norm.bias", "gpt_neox.final_layer_norm.bias"),
    tensor("output.weight", "embed_out.weight"),
    tensor("blk.{}.attn_norm.weight", "gpt_neox.layers.{}.input_layernorm.weight"),
    tensor("blk.{}.attn_norm.bias", "gpt_neox.layers.{}.input_layernorm.bias"),
    part("blk.{}.attn_q.weight", "gpt_neox.layers.{}.attention.query_key_value.weight", Rows::HeadQkv(0)),
    part("blk.{}.attn_k.weight", "gpt_neox.layers.{}.attention.query_key_value.weight", Rows::HeadQkv(1)),
    part("blk.{}.attn_v.weight", "gpt_neox.layers.{}.attention.query_key_value.weight", Rows::HeadQkv(2)),
    part("blk.{}.attn_q.bias", "gpt_neox.layers.{}.attention.query_key_value.bias", Rows::HeadQkv(0)),
    part("blk.{}.attn_k.bias", "gpt_neox.layers.{}.attention.query_key_value.bias", Rows::HeadQkv(1)),
    part("blk.{}.attn_v.bias", "gpt_neox.layers.{}.attention.query_key_value.bias", Rows::HeadQkv(2)),
    tensor("blk.{}.attn_output.weight", "gpt_neox.layers.{}.attention.dense.weight"),
    tensor("blk.{}.attn_output.bias", "gpt_neox.layers.{}.attention.dense.bias"),
    tensor("blk.{}.ffn_norm.weight", "gpt_neox.layers.{}.post_attention_layernorm.weight"),
    tensor("blk.{}.ffn_norm.bias", "gpt_neox.layers.{}.post_attention_layernorm.bias"),
    tensor("blk.{}.ffn_up.weight", "gpt_neox.layers.{}.mlp.dense_h_to_4h.weight"),
    tensor("blk.{}.ffn_up.bias", "gpt_neox.layers.{}.mlp.dense_h_to_4h.bias"),
    tensor("blk.{}.ffn_down.weight", "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight"),
    tensor("blk.{}.ffn_down.bias", "gpt_neox.layers.{}.mlp.dense_4h_to_h.bias"),
];

/// GPT-NeoX and Pythia.
pub(super) const GPT_NEOX: Family = Family {
    architecture: "GPTNeoXForCausalLM",
    name: "gpt_neox",
    gguf: GgufFormat {
        architecture: "gptneox",
        rope: RopeLayout::Half,
        fused_qkv: true,
        rope_factors: false,
        ..LLAMA.gguf
    },
    keys: ConfigKeys { norm_eps: "layer_norm_eps", ..CONFIG_KEYS },
    names: &[NAMES],
    norm: LAYER_NORM,
    residual: Residual::Key("use_parallel_residual", true),
    mlp: MlpKind::Plain,
    qkv_bias: Presence::Key("attention_bias", true),
    output_bias: Presence::Key("attention_bias", true),
    mlp_bias: Presence::Always,
    positions: Positions::Rotary(Rotary {
        theta_key: "rotary_emb_base",
        partial: Some(("rotary_pct", 0.25)),
        ..ROTARY
    }),
    defaults: Defaults {
        kv_heads: KvHeads::AlwaysAsHeads,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        ..DEFAULTS
    },
    ..LLAMA
};
