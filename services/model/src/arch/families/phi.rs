//! Phi 1, 1.5, 2 and 3.

use super::llama::{DEFAULTS, ENDS, LLAMA, NORMS};
use crate::arch::family::{
    CONFIG_KEYS, ConfigKeys, Defaults, Family, GgufFormat, LAYER_NORM, Norm, Positions, Presence,
    QkNormPresence, ROTARY, Residual, Rotary, Window,
};
use crate::arch::kinds::{Activation, MlpKind, NormPlace, QkNorm, RopeLayout};
use crate::arch::tensor_names::{Rows, TensorName, part, tensor};

const PHI_NAMES: &[TensorName] = &[
    tensor("token_embd.weight", "model.embed_tokens.weight"),
    tensor("output_norm.weight", "model.final_layernorm.weight"),
    tensor("output_norm.bias", "model.final_layernorm.bias"),
    tensor("output.weight", "lm_head.weight"),
    tensor("output.bias", "lm_head.bias"),
    tensor("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    tensor("blk.{}.attn_norm.bias", "model.layers.{}.input_layernorm.bias"),
    tensor("blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight"),
    tensor("blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight"),
    tensor("blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight"),
    tensor("blk.{}.attn_output.weight", "model.layers.{}.self_attn.dense.weight"),
    tensor("blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias"),
    tensor("blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias"),
    tensor("blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias"),
    tensor("blk.{}.attn_output.bias", "model.layers.{}.self_attn.dense.bias"),
    tensor("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_layernorm.weight"),
    tensor("blk.{}.attn_q_norm.bias", "model.layers.{}.self_attn.q_layernorm.bias"),
    tensor("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_layernorm.weight"),
    tensor("blk.{}.attn_k_norm.bias", "model.layers.{}.self_attn.k_layernorm.bias"),
    tensor("blk.{}.ffn_up.weight", "model.layers.{}.mlp.fc1.weight"),
    tensor("blk.{}.ffn_up.bias", "model.layers.{}.mlp.fc1.bias"),
    tensor("blk.{}.ffn_down.weight", "model.layers.{}.mlp.fc2.weight"),
    tensor("blk.{}.ffn_down.bias", "model.layers.{}.mlp.fc2.bias"),
];

/// Phi 1 to 2: a parallel residual behind one norm.
pub(super) const PHI: Family = Family {
    architecture: "PhiForCausalLM",
    name: "phi",
    gguf: GgufFormat { architecture: "phi2", rope: RopeLayout::Half, rope_factors: false, ..LLAMA.gguf },
    keys: ConfigKeys { norm_eps: "layer_norm_eps", ..CONFIG_KEYS },
    names: &[PHI_NAMES],
    norm: Norm { place_when_parallel: NormPlace::BeforeShared, ..LAYER_NORM },
    qk_norm: QkNormPresence::Key("qk_layernorm", QkNorm::PerHead),
    residual: Residual::Parallel,
    mlp: MlpKind::Plain,
    qkv_bias: Presence::Always,
    output_bias: Presence::Always,
    mlp_bias: Presence::Always,
    logit_bias: Presence::Always,
    positions: Positions::Rotary(Rotary { partial: Some(("partial_rotary_factor", 0.5)), ..ROTARY }),
    defaults: Defaults { norm_eps: 1e-5, activation: Activation::GeluTanh, ..DEFAULTS },
    ..LLAMA
};

const FUSED: &[TensorName] = &[
    part("blk.{}.attn_q.weight", "model.layers.{}.self_attn.qkv_proj.weight", Rows::Qkv(0)),
    part("blk.{}.attn_k.weight", "model.layers.{}.self_attn.qkv_proj.weight", Rows::Qkv(1)),
    part("blk.{}.attn_v.weight", "model.layers.{}.self_attn.qkv_proj.weight", Rows::Qkv(2)),
    tensor("blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight"),
    part("blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_up_proj.weight", Rows::GateUp(0)),
    part("blk.{}.ffn_up.weight", "model.layers.{}.mlp.gate_up_proj.weight", Rows::GateUp(1)),
    tensor("blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"),
];

/// Phi 3 and 3.5: Llama with fused projections and LongRoPE.
pub(super) const PHI3: Family = Family {
    architecture: "Phi3ForCausalLM",
    name: "phi3",
    gguf: GgufFormat {
        architecture: "phi3",
        rope: RopeLayout::Half,
        fused_qkv: true,
        fused_gate_up: true,
        rope_factors: false,
        ..LLAMA.gguf
    },
    names: &[ENDS, NORMS, FUSED],
    qkv_bias: Presence::Never,
    output_bias: Presence::Never,
    mlp_bias: Presence::Never,
    window: Window::EveryLayer,
    positions: Positions::Rotary(Rotary {
        partial: Some(("partial_rotary_factor", 1.0)),
        long_only: true,
        original_context: Some(4096),
        ..ROTARY
    }),
    defaults: Defaults { context_length: 4096, norm_eps: 1e-5, ..DEFAULTS },
    ..LLAMA
};
