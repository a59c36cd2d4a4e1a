//! Gemma 1, 2 and 3 (its text).

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, MLP, NORMS};
use crate::family::{
    AttentionScale, Defaults, Family, Gguf, Inner, KEYS, Keys, KvHeads, Norm, Positions, Presence, QkNormed,
    RMS, ROTARY, Rotary, SCALES, Scale, Scales, TurnedLayers, Window, Wrapper,
};
use crate::names::{TensorName, tensor};
use crate::spec::{Activation, NormPlace, QkNorm, RopeLayout};

const FOUR_NORMS: &[TensorName] = &[
    tensor("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    tensor("blk.{}.post_attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    tensor("blk.{}.ffn_norm.weight", "model.layers.{}.pre_feedforward_layernorm.weight"),
    tensor("blk.{}.post_ffw_norm.weight", "model.layers.{}.post_feedforward_layernorm.weight"),
];

const QK_NORMS: &[TensorName] = &[
    tensor("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    tensor("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
];

const GGUF: Gguf = Gguf { architecture: "gemma", rope: RopeLayout::Half, rope_factors: false, ..LLAMA.gguf };

pub const GEMMA: Family = Family {
    architecture: "GemmaForCausalLM",
    name: "gemma",
    gguf: GGUF,
    names: &[ENDS, NORMS, ATTENTION, MLP],
    norm: Norm { offset: 1.0, ..RMS },
    mlp_bias: Presence::Never,
    // In the first published configs.
    gelu: Activation::GeluTanh,
    scales: Scales { embedding: Scale::RootOfHidden, ..SCALES },
    defaults: Defaults {
        kv_heads: KvHeads::Count(16),
        head_dim: Some(256),
        context_length: 8192,
        activation: Activation::GeluTanh,
        tied_embeddings: true,
        ..DEFAULTS
    },
    ..LLAMA
};

pub const GEMMA2: Family = Family {
    architecture: "Gemma2ForCausalLM",
    name: "gemma2",
    gguf: Gguf { architecture: "gemma2", wide_scale_at: Some(46), window_by_default: true, ..GGUF },
    keys: Keys { activation: "hidden_activation", ..KEYS },
    names: &[ENDS, FOUR_NORMS, ATTENTION, MLP],
    norm: Norm { place: NormPlace::BeforeAndAfter, ..GEMMA.norm },
    gelu: Activation::Gelu,
    window: Window::Alternating { full_every: 2, key: None },
    scales: Scales {
        attention: AttentionScale::InverseRoot("query_pre_attn_scalar", 256.0),
        attention_soft_cap: Some(("attn_logit_softcapping", Some(50.0))),
        logit_soft_cap: Some(("final_logit_softcapping", Some(30.0))),
        ..GEMMA.scales
    },
    defaults: Defaults { kv_heads: KvHeads::Count(4), sliding_window: Some(4096), ..GEMMA.defaults },
    ..GEMMA
};

/// Published configs of the larger ones leave out nearly everything that is as in the 2B.
pub const GEMMA3: Family = Family {
    architecture: "Gemma3ForCausalLM",
    name: "gemma3_text",
    gguf: Gguf { architecture: "gemma3", wide_scale_at: Some(62), ..GGUF },
    names: &[ENDS, FOUR_NORMS, ATTENTION, QK_NORMS, MLP],
    qk_norm: QkNormed::Always(QkNorm::PerHead),
    window: Window::Alternating { full_every: 6, key: Some("sliding_window_pattern") },
    positions: Positions::Rotary(Rotary {
        theta: 1e6,
        layers: TurnedLayers::LocalAndGlobal { key: "rope_local_base_freq", theta: 10_000.0 },
        ..ROTARY
    }),
    scales: Scales {
        attention_soft_cap: None,
        logit_soft_cap: Some(("final_logit_softcapping", None)),
        ..GEMMA2.scales
    },
    defaults: Defaults {
        heads: Some(8),
        vocabulary_size: Some(262_208),
        intermediate_size: Some(Inner::Size(9216)),
        context_length: 131_072,
        ..GEMMA2.defaults
    },
    // All but the smallest see pictures too.
    wrapper: Some(Wrapper { architecture: "Gemma3ForConditionalGeneration", name: "gemma3" }),
    ..GEMMA2
};
