//! OLMo 2: norms behind attention and MLP, and over all heads at once.

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, MLP};
use crate::family::{Defaults, Family, Gguf, Norm, Presence, QkNormed, RMS};
use crate::names::{TensorName, tensor};
use crate::spec::{NormPlace, QkNorm, RopeLayout};

const NORMS: &[TensorName] = &[
    tensor("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    tensor("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
    tensor("blk.{}.post_attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    tensor("blk.{}.post_ffw_norm.weight", "model.layers.{}.post_feedforward_layernorm.weight"),
];

pub const OLMO2: Family = Family {
    architecture: "Olmo2ForCausalLM",
    name: "olmo2",
    gguf: Gguf { architecture: "olmo2", rope: RopeLayout::Half, rope_factors: false, ..LLAMA.gguf },
    names: &[ENDS, NORMS, ATTENTION, MLP],
    norm: Norm { place: NormPlace::After, ..RMS },
    qk_norm: QkNormed::Always(QkNorm::Whole),
    mlp_bias: Presence::Never,
    defaults: Defaults { norm_eps: 1e-5, ..DEFAULTS },
    ..LLAMA
};
