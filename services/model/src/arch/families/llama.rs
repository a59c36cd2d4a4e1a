//! Llama 2 and 3, Mistral and Mixtral. Other families build on the constants here.

use crate::arch::family::{
    CONFIG_KEYS, Defaults, ExpertKeys, Family, GgufFormat, KvHeads, Positions, Presence, QkNormPresence, RMS,
    ROTARY, Residual, Rotary, SCALES, Window,
};
use crate::arch::kinds::{Activation, MlpKind, RopeLayout};
use crate::arch::tensor_names::{TensorName, tensor};

/// Embedding, last norm and output.
pub(super) const ENDS: &[TensorName] = &[
    tensor("token_embd.weight", "model.embed_tokens.weight"),
    tensor("output_norm.weight", "model.norm.weight"),
    tensor("output.weight", "lm_head.weight"),
];

/// The projections of attention.
pub(super) const ATTENTION: &[TensorName] = &[
    tensor("blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight"),
    tensor("blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight"),
    tensor("blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight"),
    tensor("blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight"),
    tensor("blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias"),
    tensor("blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias"),
    tensor("blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias"),
    tensor("blk.{}.attn_output.bias", "model.layers.{}.self_attn.o_proj.bias"),
];

/// The norms before attention and MLP.
pub(super) const NORMS: &[TensorName] = &[
    tensor("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    tensor("blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
];

/// A gated MLP.
pub(super) const MLP: &[TensorName] = &[
    tensor("blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight"),
    tensor("blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight"),
    tensor("blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"),
    tensor("blk.{}.ffn_gate.bias", "model.layers.{}.mlp.gate_proj.bias"),
    tensor("blk.{}.ffn_up.bias", "model.layers.{}.mlp.up_proj.bias"),
    tensor("blk.{}.ffn_down.bias", "model.layers.{}.mlp.down_proj.bias"),
];

/// Llama 2 and 3.
pub(super) const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    name: "llama",
    gguf: GgufFormat {
        architecture: "llama",
        rope: RopeLayout::Interleaved,
        fused_qkv: false,
        fused_gate_up: false,
        rope_factors: true,
        wide_scale_at: None,
        window_by_default: false,
        names: &[],
    },
    keys: CONFIG_KEYS,
    defaults: DEFAULTS,
    names: &[ENDS, NORMS, ATTENTION, MLP],
    norm: RMS,
    qk_norm: QkNormPresence::Never,
    residual: Residual::Serial,
    mlp: MlpKind::Gated,
    gelu: Activation::Gelu,
    experts: None,
    packing: None,
    attention_sinks: false,
    qkv_bias: Presence::Key("attention_bias", false),
    output_bias: Presence::Key("attention_bias", false),
    mlp_bias: Presence::Key("mlp_bias", false),
    logit_bias: Presence::Never,
    window: Window::Never,
    positions: Positions::Rotary(ROTARY),
    scales: SCALES,
    wrapper: None,
};

/// Llama's defaults.
pub(super) const DEFAULTS: Defaults = Defaults {
    heads: None,
    kv_heads: KvHeads::AsHeads,
    head_dim: None,
    intermediate_size: None,
    vocabulary_size: None,
    context_length: 2048,
    norm_eps: 1e-6,
    sliding_window: None,
    activation: Activation::Silu,
    tied_embeddings: false,
};

/// Mistral. GGUF has no name for it: converted files say `llama`.
pub(super) const MISTRAL: Family = Family {
    architecture: "MistralForCausalLM",
    name: "mistral",
    qkv_bias: Presence::Never,
    output_bias: Presence::Never,
    mlp_bias: Presence::Never,
    window: Window::EveryLayer,
    defaults: Defaults {
        kv_heads: KvHeads::Count(8),
        context_length: 131_072,
        sliding_window: Some(4096),
        ..DEFAULTS
    },
    ..LLAMA
};

const MIXTRAL_EXPERTS: &[TensorName] = &[
    tensor("blk.{}.ffn_gate_inp.weight", "model.layers.{}.block_sparse_moe.gate.weight"),
    tensor("blk.{}.ffn_gate.{}.weight", "model.layers.{}.block_sparse_moe.experts.{}.w1.weight"),
    tensor("blk.{}.ffn_up.{}.weight", "model.layers.{}.block_sparse_moe.experts.{}.w3.weight"),
    tensor("blk.{}.ffn_down.{}.weight", "model.layers.{}.block_sparse_moe.experts.{}.w2.weight"),
];

/// Mixtral. In GGUF it is `llama` with experts.
pub(super) const MIXTRAL: Family = Family {
    architecture: "MixtralForCausalLM",
    name: "mixtral",
    names: &[ENDS, NORMS, ATTENTION, MIXTRAL_EXPERTS],
    experts: Some(ExpertKeys {
        count: ["num_local_experts", "num_experts"],
        default_count: 8,
        default_used: 2,
        intermediate_size: None,
        normalized: None,
        some_layers: false,
        router_bias: false,
    }),
    positions: Positions::Rotary(Rotary { theta: 1e6, ..ROTARY }),
    defaults: Defaults { norm_eps: 1e-5, sliding_window: None, ..MISTRAL.defaults },
    ..MISTRAL
};
