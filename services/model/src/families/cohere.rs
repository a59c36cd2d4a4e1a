//! Cohere's Command R and R7B: attention and MLP side by side behind one norm without bias.

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, MLP};
use crate::family::{
    Defaults, Family, Gguf, KEYS, Keys, Norm, Positions, Presence, QkNormed, RMS, ROTARY, Residual, Rotary,
    SCALES, Scale, Scales, TurnedLayers, Window,
};
use crate::names::{TensorName, tensor};
use crate::spec::{NormKind, NormPlace, QkNorm, RopeLayout};

const NORMS: &[TensorName] = &[
    tensor("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    tensor("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    tensor("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
];

const TURNED: Rotary = Rotary { theta: 500_000.0, layout: RopeLayout::Interleaved, ..ROTARY };

pub const COHERE: Family = Family {
    architecture: "CohereForCausalLM",
    name: "cohere",
    gguf: Gguf { architecture: "command-r", rope_factors: false, ..LLAMA.gguf },
    keys: Keys { norm_eps: "layer_norm_eps", ..KEYS },
    names: &[ENDS, NORMS, ATTENTION, MLP],
    norm: Norm { kind: NormKind::Layer, place_when_parallel: NormPlace::BeforeShared, ..RMS },
    qk_norm: QkNormed::Key("use_qk_norm", QkNorm::EachHead),
    residual: Residual::Parallel,
    mlp_bias: Presence::Never,
    positions: Positions::Rotary(TURNED),
    scales: Scales { logits: Scale::Times("logit_scale", 0.0625), ..SCALES },
    defaults: Defaults { context_length: 8192, norm_eps: 1e-5, tied_embeddings: true, ..DEFAULTS },
    ..LLAMA
};

pub const COHERE2: Family = Family {
    architecture: "Cohere2ForCausalLM",
    name: "cohere2",
    gguf: Gguf { architecture: "cohere2", window_by_default: true, ..COHERE.gguf },
    qk_norm: QkNormed::Never,
    window: Window::Alternating { full_every: 4, key: Some("sliding_window_pattern") },
    positions: Positions::Rotary(Rotary { theta: 10_000.0, layers: TurnedLayers::Windowed, ..TURNED }),
    defaults: Defaults { sliding_window: Some(4096), ..COHERE.defaults },
    ..COHERE
};
