//! Cohere's Command R and R7B: a parallel residual behind one norm without bias, and rope in neighbouring pairs.

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, MLP};
use crate::arch::family::{
    CONFIG_KEYS, ConfigKeys, Defaults, Family, GgufFormat, Norm, Positions, Presence, QkNormPresence, RMS,
    ROTARY, Residual, Rotary, RotatedLayers, SCALES, Scale, Scales, Window,
};
use crate::arch::kinds::{NormKind, NormPlace, QkNorm, RopeLayout};
use crate::arch::tensor_names::{TensorName, tensor};

const NORMS: &[TensorName] = &[
    tensor("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    tensor("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    tensor("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
];

const ROTATED: Rotary = Rotary { theta: 500_000.0, layout: RopeLayout::Interleaved, ..ROTARY };

/// Command R.
pub(super) const COHERE: Family = Family {
    architecture: "CohereForCausalLM",
    name: "cohere",
    gguf: GgufFormat { architecture: "command-r", rope_factors: false, ..LLAMA.gguf },
    keys: ConfigKeys { norm_eps: "layer_norm_eps", ..CONFIG_KEYS },
    names: &[ENDS, NORMS, ATTENTION, MLP],
    norm: Norm { kind: NormKind::Layer, place_when_parallel: NormPlace::BeforeShared, ..RMS },
    qk_norm: QkNormPresence::Key("use_qk_norm", QkNorm::EachHead),
    residual: Residual::Parallel,
    mlp_bias: Presence::Never,
    positions: Positions::Rotary(ROTATED),
    scales: Scales { logits: Scale::Times("logit_scale", 0.0625), ..SCALES },
    defaults: Defaults { context_length: 8192, norm_eps: 1e-5, tied_embeddings: true, ..DEFAULTS },
    ..LLAMA
};

/// Command R7B: windowed layers rotate, the others use no positions.
pub(super) const COHERE2: Family = Family {
    architecture: "Cohere2ForCausalLM",
    name: "cohere2",
    gguf: GgufFormat { architecture: "cohere2", window_by_default: true, ..COHERE.gguf },
    qk_norm: QkNormPresence::Never,
    window: Window::Alternating { full_every: 4, key: Some("sliding_window_pattern") },
    positions: Positions::Rotary(Rotary { theta: 10_000.0, layers: RotatedLayers::Windowed, ..ROTATED }),
    defaults: Defaults { sliding_window: Some(4096), ..COHERE.defaults },
    ..COHERE
};
