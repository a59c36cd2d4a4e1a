//! gpt-oss: experts whose matrices are published in MXFP4, biases everywhere, and attention sinks.

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, NORMS};
use crate::arch::family::{
    Defaults, ExpertKeys, Family, GgufFormat, KvHeads, MlpWidth, Packing, Positions, Presence, ROTARY,
    Rotary, Window,
};
use crate::arch::kinds::{Activation, RopeLayout, Yarn};
use crate::arch::tensor_names::{Rows, TensorName, part, tensor, transposed};
use crate::tensor::TensorType;

const SINKS: &[TensorName] = &[tensor("blk.{}.attn_sinks.weight", "model.layers.{}.self_attn.sinks")];

/// Packed as `[experts, out, in]`, or plain and transposed. The rows of gate and up alternate.
const EXPERTS: &[TensorName] = &[
    tensor("blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.router.weight"),
    tensor("blk.{}.ffn_gate_inp.bias", "model.layers.{}.mlp.router.bias"),
    part(
        "blk.{}.ffn_gate.{}.weight",
        "model.layers.{}.mlp.experts.gate_up_proj_blocks",
        Rows::ExpertInterleaved(0),
    ),
    part(
        "blk.{}.ffn_up.{}.weight",
        "model.layers.{}.mlp.experts.gate_up_proj_blocks",
        Rows::ExpertInterleaved(1),
    ),
    part("blk.{}.ffn_down.{}.weight", "model.layers.{}.mlp.experts.down_proj_blocks", Rows::Expert),
    transposed(
        "blk.{}.ffn_gate.{}.weight",
        "model.layers.{}.mlp.experts.gate_up_proj",
        Rows::ExpertInterleaved(0),
    ),
    transposed(
        "blk.{}.ffn_up.{}.weight",
        "model.layers.{}.mlp.experts.gate_up_proj",
        Rows::ExpertInterleaved(1),
    ),
    transposed("blk.{}.ffn_down.{}.weight", "model.layers.{}.mlp.experts.down_proj", Rows::Expert),
    part(
        "blk.{}.ffn_gate.{}.bias",
        "model.layers.{}.mlp.experts.gate_up_proj_bias",
        Rows::ExpertInterleaved(0),
    ),
    part(
        "blk.{}.ffn_up.{}.bias",
        "model.layers.{}.mlp.experts.gate_up_proj_bias",
        Rows::ExpertInterleaved(1),
    ),
    part("blk.{}.ffn_down.{}.bias", "model.layers.{}.mlp.experts.down_proj_bias", Rows::Expert),
];

/// GGUF names the norm before the MLP by its place after attention.
const GGUF_NORM: &[TensorName] = &[tensor("blk.{}.ffn_norm.weight", "blk.{}.post_attention_norm.weight")];

/// gpt-oss 20B and 120B.
pub(super) const GPT_OSS: Family = Family {
    architecture: "GptOssForCausalLM",
    name: "gpt_oss",
    gguf: GgufFormat {
        architecture: "gpt-oss",
        rope: RopeLayout::Half,
        rope_factors: false,
        names: GGUF_NORM,
        ..LLAMA.gguf
    },
    names: &[ENDS, NORMS, ATTENTION, SINKS, EXPERTS],
    experts: Some(ExpertKeys {
        count: ["num_local_experts", "num_experts"],
        default_count: 128,
        default_used: 4,
        intermediate_size: None,
        normalized: None,
        some_layers: false,
        router_bias: true,
    }),
    packing: Some(Packing { method: "mxfp4", experts: TensorType::MXFP4 }),
    attention_sinks: true,
    qkv_bias: Presence::Key("attention_bias", true),
    output_bias: Presence::Key("attention_bias", true),
    mlp_bias: Presence::Always,
    window: Window::Alternating { full_every: 2, key: None },
    positions: Positions::Rotary(Rotary {
        theta: 150_000.0,
        scaling: Some(Yarn {
            factor: 32.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context: 4096,
            truncate: false,
        }),
        ..ROTARY
    }),
    defaults: Defaults {
        heads: Some(64),
        kv_heads: KvHeads::Count(8),
        head_dim: Some(64),
        intermediate_size: Some(MlpWidth::Size(2880)),
        vocabulary_size: Some(201_088),
        context_length: 131_072,
        norm_eps: 1e-5,
        sliding_window: Some(128),
        activation: Activation::Swiglu { alpha: 1.702, limit: 7.0 },
        ..DEFAULTS
    },
    ..LLAMA
};
