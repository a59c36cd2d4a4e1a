//! Qwen 2, 2.5 and 3.

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, MLP, NORMS};
use crate::arch::family::{
    Defaults, ExpertKeys, Family, GgufFormat, KvHeads, Presence, QkNormPresence, Window,
};
use crate::arch::kinds::{QkNorm, RopeLayout};
use crate::arch::tensor_names::{TensorName, tensor};

const QK_NORMS: &[TensorName] = &[
    tensor("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    tensor("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
];

const EXPERTS: &[TensorName] = &[
    tensor("blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.gate.weight"),
    tensor("blk.{}.ffn_gate.{}.weight", "model.layers.{}.mlp.experts.{}.gate_proj.weight"),
    tensor("blk.{}.ffn_up.{}.weight", "model.layers.{}.mlp.experts.{}.up_proj.weight"),
    tensor("blk.{}.ffn_down.{}.weight", "model.layers.{}.mlp.experts.{}.down_proj.weight"),
];

const GGUF: GgufFormat =
    GgufFormat { architecture: "qwen2", rope: RopeLayout::Half, rope_factors: false, ..LLAMA.gguf };

/// Qwen 2 and 2.5.
pub(super) const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    name: "qwen2",
    gguf: GGUF,
    qkv_bias: Presence::Always,
    output_bias: Presence::Never,
    mlp_bias: Presence::Never,
    window: Window::UpperLayers { first: 28 },
    defaults: Defaults {
        kv_heads: KvHeads::Count(32),
        context_length: 32_768,
        sliding_window: Some(4096),
        ..DEFAULTS
    },
    ..LLAMA
};

/// Qwen 3, dense.
pub(super) const QWEN3: Family = Family {
    architecture: "Qwen3ForCausalLM",
    name: "qwen3",
    gguf: GgufFormat { architecture: "qwen3", ..GGUF },
    names: &[ENDS, NORMS, ATTENTION, QK_NORMS, MLP],
    qk_norm: QkNormPresence::Always(QkNorm::PerHead),
    qkv_bias: Presence::Key("attention_bias", false),
    output_bias: Presence::Key("attention_bias", false),
    defaults: Defaults { head_dim: Some(128), ..QWEN2.defaults },
    ..QWEN2
};

/// Qwen 3 with experts.
pub(super) const QWEN3_MOE: Family = Family {
    architecture: "Qwen3MoeForCausalLM",
    name: "qwen3_moe",
    gguf: GgufFormat { architecture: "qwen3moe", ..GGUF },
    names: &[ENDS, NORMS, ATTENTION, QK_NORMS, MLP, EXPERTS],
    experts: Some(ExpertKeys {
        count: ["num_local_experts", "num_experts"],
        default_count: 128,
        default_used: 8,
        intermediate_size: Some(("moe_intermediate_size", 768)),
        normalized: Some("norm_topk_prob"),
        some_layers: true,
        router_bias: false,
    }),
    window: Window::EveryLayerSwitched,
    defaults: Defaults { kv_heads: KvHeads::Count(4), head_dim: None, ..QWEN3.defaults },
    ..QWEN3
};
