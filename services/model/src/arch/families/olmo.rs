//! OLMo 2: norms after attention and MLP, and over all heads together.

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, MLP};
use crate::arch::family::{Defaults, Family, GgufFormat, Norm, Presence, QkNormPresence, RMS};
use crate::arch::kinds::{NormPlace, QkNorm, RopeLayout};
use crate::arch::tensor_names::{TensorName, tensor};

const NORMS: &[TensorName] = &[
    tensor("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    tensor("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
    tensor("blk.{}.post_attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    tensor("blk.{}.post_ffw_norm.weight", "model.layers.{}.post_feedforward_layernorm.weight"),
];

/// OLMo 2.
pub(super) const OLMO2: Family = Family {
    architecture: "Olmo2ForCausalLM",
    name: "olmo2",
    gguf: GgufFormat { architecture: "olmo2", rope: RopeLayout::Half, rope_factors: false, ..LLAMA.gguf },
    names: &[ENDS, NORMS, ATTENTION, MLP],
    norm: Norm { place: NormPlace::After, ..RMS },
    qk_norm: QkNormPresence::Always(QkNorm::Whole),
    mlp_bias: Presence::Never,
    defaults: Defaults { norm_eps: 1e-5, ..DEFAULTS },
    ..LLAMA
};
