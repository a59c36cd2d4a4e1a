//! Gemma 1, 2 and 3 (its text model).

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, MLP, NORMS};
use crate::arch::family::{
    AttentionScale, CONFIG_KEYS, ConfigKeys, Defaults, Family, GgufFormat, KvHeads, MlpWidth, Norm,
    Positions, Presence, QkNormPresence, RMS, ROTARY, Rotary, RotatedLayers, SCALES, Scale, Scales, Window,
    Wrapper,
};
use crate::arch::kinds::{Activation, NormPlace, QkNorm, RopeLayout};
use crate::arch::tensor_names::{TensorName, tensor};

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

const GGUF: GgufFormat =
    GgufFormat { architecture: "gemma", rope: RopeLayout::Half, rope_factors: false, ..LLAMA.gguf };

/// Gemma 1.
pub(super) const GEMMA: Family = Family {
    architecture: "GemmaForCausalLM",
    name: "gemma",
    gguf: GGUF,
    names: &[ENDS, NORMS, ATTENTION, MLP],
    norm: Norm { offset: 1.0, ..RMS },
    mlp_bias: Presence::Never,
    // The first published configs say "gelu" and mean its approximation.
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

/// Gemma 2.
pub(super) const GEMMA2: Family = Family {
    architecture: "Gemma2ForCausalLM",
    name: "gemma2",
    gguf: GgufFormat { architecture: "gemma2", wide_scale_at: Some(46), window_by_default: true, ..GGUF },
    keys: ConfigKeys { activation: "hidden_activation", ..CONFIG_KEYS },
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

/// Gemma 3. Published configs of the larger models leave out nearly everything that is equal to the smallest one's.
pub(super) const GEMMA3: Family = Family {
    architecture: "Gemma3ForCausalLM",
    name: "gemma3_text",
    gguf: GgufFormat { architecture: "gemma3", wide_scale_at: Some(62), ..GGUF },
    names: &[ENDS, FOUR_NORMS, ATTENTION, QK_NORMS, MLP],
    qk_norm: QkNormPresence::Always(QkNorm::PerHead),
    window: Window::Alternating { full_every: 6, key: Some("sliding_window_pattern") },
    positions: Positions::Rotary(Rotary {
        theta: 1e6,
        layers: RotatedLayers::LocalAndGlobal { key: "rope_local_base_freq", theta: 10_000.0 },
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
        intermediate_size: Some(MlpWidth::Size(9216)),
        context_length: 131_072,
        ..GEMMA2.defaults
    },
    // All but the smallest model read images too.
    wrapper: Some(Wrapper { architecture: "Gemma3ForConditionalGeneration", name: "gemma3" }),
    ..GEMMA2
};
