//! The fields in which architectures differ. Each family is a constant in [`families`](super::families); readers and
//! the decoder never ask which family a model is of.

use super::kinds::{Activation, MlpKind, NormKind, NormPlace, QkNorm, RopeLayout, Yarn};
use super::tensor_names::TensorName;
use crate::tensor::TensorType;

/// One architecture.
#[derive(Debug)]
pub struct Family {
    /// The name in config.json's `architectures`.
    pub architecture: &'static str,
    /// config.json's `model_type`.
    pub name: &'static str,
    /// The conventions of its GGUF files.
    pub gguf: GgufFormat,
    /// The names of config keys that families spell differently.
    pub keys: ConfigKeys,
    /// The values that transformers' config class takes for absent keys.
    pub defaults: Defaults,
    /// The locations of tensors in its safetensors files, in several tables.
    pub names: &'static [&'static [TensorName]],
    /// The layers' norms.
    pub norm: Norm,
    /// The presence and the kind of the norms of queries and keys.
    pub qk_norm: QkNormPresence,
    /// The way in which attention and MLP are added to the residual.
    pub residual: Residual,
    /// The form of the MLP.
    pub mlp: MlpKind,
    /// The activation that its configs mean by "gelu".
    pub gelu: Activation,
    /// The config keys of a mixture of experts; `None` for families without experts.
    pub experts: Option<ExpertKeys>,
    /// The one packing of weights that is read; any other `quantization_config` is refused.
    pub packing: Option<Packing>,
    /// Each head has an attention sink: the score of an extra token that takes its share of the weight and has no value.
    pub attention_sinks: bool,
    /// The biases of queries, keys and values.
    pub qkv_bias: Presence,
    /// The bias of attention's output.
    pub output_bias: Presence,
    /// The biases of the MLP.
    pub mlp_bias: Presence,
    /// The bias of the logits.
    pub logit_bias: Presence,
    /// The layers with a sliding window.
    pub window: Window,
    /// The position encoding.
    pub positions: Positions,
    /// Factors and soft caps.
    pub scales: Scales,
    /// The multimodal model whose text model is of this family.
    pub wrapper: Option<Wrapper>,
}

/// A multimodal model around a text model. Its config holds the text model's as `text_config`, and the names of the text
/// model's tensors have `language_model` before or within them.
#[derive(Debug, Clone, Copy)]
pub struct Wrapper {
    /// The name in config.json's `architectures`.
    pub architecture: &'static str,
    /// config.json's `model_type`.
    pub name: &'static str,
}

/// The conventions of a family's GGUF files, as llama.cpp's converter writes them and llama.cpp reads them.
#[derive(Debug, Clone, Copy)]
pub struct GgufFormat {
    /// `general.architecture`. Families that the converter writes under another family's name share it.
    pub architecture: &'static str,
    /// The order in which the converter leaves the rows of q and k.
    pub rope: RopeLayout,
    /// q, k and v are one tensor.
    pub fused_qkv: bool,
    /// gate and up are one tensor.
    pub fused_gate_up: bool,
    /// `rope_freqs.weight` is read.
    pub rope_factors: bool,
    /// A model of this many layers scales scores by `(hidden_size / heads)^-0.5` instead of `head_dim^-0.5`. The format
    /// has no key for it.
    pub wide_scale_at: Option<usize>,
    /// A file without the window's key has the family's default window.
    pub window_by_default: bool,
    /// Tensors that its files call otherwise than other families' files do.
    pub names: &'static [TensorName],
}

/// The names of config keys that families spell differently.
#[derive(Debug, Clone, Copy)]
pub struct ConfigKeys {
    /// Number of layers.
    pub layers: &'static str,
    /// Width of the residual stream.
    pub hidden_size: &'static str,
    /// Number of query heads.
    pub heads: &'static str,
    /// Inner width of the MLP.
    pub intermediate_size: &'static str,
    /// Longest sequence, in tokens.
    pub context_length: &'static str,
    /// Epsilon of the norms.
    pub norm_eps: &'static str,
    /// Name of the activation.
    pub activation: &'static str,
}

/// The spelling of most families.
pub(crate) const CONFIG_KEYS: ConfigKeys = ConfigKeys {
    layers: "num_hidden_layers",
    hidden_size: "hidden_size",
    heads: "num_attention_heads",
    intermediate_size: "intermediate_size",
    context_length: "max_position_embeddings",
    norm_eps: "rms_norm_eps",
    activation: "hidden_act",
};

/// The values of absent config keys. `None`: the key is required, unless the field says otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Number of query heads.
    pub heads: Option<usize>,
    /// Number of key-value heads.
    pub kv_heads: KvHeads,
    /// Width of a head. `None`: `hidden_size / heads`.
    pub head_dim: Option<usize>,
    /// Inner width of the MLP.
    pub intermediate_size: Option<MlpWidth>,
    /// Rows of the embedding table.
    pub vocabulary_size: Option<usize>,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Tokens in the sliding window. `None`: there is no window.
    pub sliding_window: Option<usize>,
    /// The MLP's activation.
    pub activation: Activation,
    /// The output projection is the embedding table.
    pub tied_embeddings: bool,
}

/// The default number of key-value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvHeads {
    /// As many as query heads if the key is absent.
    AsHeads,
    /// As many as query heads, whatever the key's value.
    AlwaysAsHeads,
    /// This many if the key is absent.
    Count(usize),
}

/// The default inner width of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpWidth {
    /// This width.
    Size(usize),
    /// A multiple of the residual's width.
    Times(usize),
}

/// The norms of a family.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// The way in which a norm scales its input.
    pub kind: NormKind,
    /// The places in a layer where norms are applied.
    pub place: NormPlace,
    /// The place in models with a parallel residual.
    pub place_when_parallel: NormPlace,
    /// Norms have a bias.
    pub bias: bool,
    /// Added to the weights as safetensors store them. In GGUF files the converter has added it.
    pub offset: f32,
}

/// RMSNorm before attention and MLP.
pub(crate) const RMS: Norm = Norm {
    kind: NormKind::Rms,
    place: NormPlace::Before,
    place_when_parallel: NormPlace::Before,
    bias: false,
    offset: 0.0,
};

/// LayerNorm with a bias, before attention and MLP.
pub(crate) const LAYER_NORM: Norm = Norm { kind: NormKind::Layer, bias: true, ..RMS };

/// The presence of a kind of tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// In no model of the family.
    Never,
    /// In every model of the family.
    Always,
    /// In models for which this boolean of config.json is true; the second value is the default.
    Key(&'static str, bool),
}

/// The presence and the kind of the norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNormPresence {
    /// In no model of the family.
    Never,
    /// In every model of the family.
    Always(QkNorm),
    /// In models for which this boolean of config.json is true; the default is false.
    Key(&'static str, QkNorm),
}

/// The way in which attention and MLP are added to the residual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// Attention first; the MLP reads the sum.
    Serial,
    /// Both read the layer's input and are added together.
    Parallel,
    /// Parallel if this boolean of config.json says so; the second value is the default.
    Key(&'static str, bool),
}

/// The config keys of a mixture of experts.
#[derive(Debug, Clone, Copy)]
pub struct ExpertKeys {
    /// The two spellings of the key for the number of experts.
    pub count: [&'static str; 2],
    /// Number of experts where the key is absent.
    pub default_count: usize,
    /// Experts for each token where the key is absent.
    pub default_used: usize,
    /// The key for the experts' own inner width, and its default. `None`: the experts are as wide as other MLPs.
    pub intermediate_size: Option<(&'static str, usize)>,
    /// The boolean that normalizes the chosen experts' weights to a sum of 1. `None`: they always are.
    pub normalized: Option<&'static str>,
    /// `mlp_only_layers` and `decoder_sparse_step` are read: some layers have no experts.
    pub some_layers: bool,
    /// The router has a bias.
    pub router_bias: bool,
}

/// A packing of published weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// The config's `quant_method`.
    pub method: &'static str,
    /// The type of the experts' matrices under it.
    pub experts: TensorType,
}

/// The layers with a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// None; a `sliding_window` in the config has no effect.
    Never,
    /// All layers, where `sliding_window` is not null.
    EveryLayer,
    /// All layers, if `use_sliding_window` is true.
    EveryLayerSwitched,
    /// If `use_sliding_window` is true: the layers that `layer_types` names, or else those from `max_window_layers` on.
    UpperLayers {
        /// The default of `max_window_layers`.
        first: usize,
    },
    /// If `use_sliding_window` is true: the layers that `layer_types` names, or else those that do not rotate queries
    /// and keys.
    LayersWithoutRope,
    /// The layers that `layer_types` names, or else all but every `full_every`th.
    Alternating {
        /// Every layer with a multiple of this number (counted from 1) sees the whole context.
        full_every: usize,
        /// The config key that may say another number.
        key: Option<&'static str>,
    },
}

/// The position encoding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// A table of positions is added to the embeddings.
    Learned,
    /// Queries and keys are rotated by their position (RoPE).
    Rotary(Rotary),
}

/// A family's rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// The default base of the frequencies.
    pub theta: f64,
    /// The config key for the base, beside `rope_theta` within the rope's own parameters.
    pub theta_key: &'static str,
    /// The config key for the share of a head that is rotated, and its default. `None`: the whole head is.
    pub partial: Option<(&'static str, f64)>,
    /// The layout of the safetensors files.
    pub layout: RopeLayout,
    /// The layers that rotate.
    pub layers: RotatedLayers,
    /// Only LongRoPE is known here; "su" and "yarn" are its old names.
    pub long_only: bool,
    /// The default of `original_max_position_embeddings`.
    pub original_context: Option<usize>,
    /// The scaling that the config class takes where there are no parameters. GGUF has no key for `truncate`, so a
    /// family's files mean the one here.
    pub scaling: Option<Yarn>,
}

/// The rotary embedding of most families.
pub(crate) const ROTARY: Rotary = Rotary {
    theta: 10_000.0,
    theta_key: "rope_theta",
    partial: None,
    layout: RopeLayout::Half,
    layers: RotatedLayers::All,
    long_only: false,
    original_context: None,
    scaling: None,
};

/// The layers that rotate queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RotatedLayers {
    /// All layers, by the same frequencies.
    All,
    /// All layers; those with a window have frequencies of their own.
    LocalAndGlobal {
        /// The config key for the base of the windowed layers.
        key: &'static str,
        /// The default of that key.
        theta: f64,
    },
    /// The layers with a window.
    Windowed,
    /// `no_rope_layers` has a 0 for each layer that does not rotate. Without it every `no_rope_layer_interval`th layer
    /// does not.
    Listed {
        /// The default of `no_rope_layer_interval`.
        interval: usize,
    },
}

/// Factors and soft caps.
#[derive(Debug, Clone, Copy)]
pub struct Scales {
    /// Multiplies attention scores.
    pub attention: AttentionScale,
    /// Multiplies embeddings.
    pub embedding: Scale,
    /// Multiplies the outputs of attention and MLP.
    pub residual: Scale,
    /// Multiplies logits.
    pub logits: Scale,
    /// The config key for the soft cap of attention scores, and its default.
    pub attention_soft_cap: Option<(&'static str, Option<f64>)>,
    /// The config key for the soft cap of logits, and its default.
    pub logit_soft_cap: Option<(&'static str, Option<f64>)>,
}

/// No factors but `head_dim^-0.5`, no soft caps.
pub(crate) const SCALES: Scales = Scales {
    attention: AttentionScale::HeadDim,
    embedding: Scale::One,
    residual: Scale::One,
    logits: Scale::One,
    attention_soft_cap: None,
    logit_soft_cap: None,
};

/// One factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// No scaling.
    One,
    /// The square root of the hidden size.
    RootOfHidden,
    /// The value of this config key; the second value is the default.
    Times(&'static str, f64),
    /// One over the value of this config key; the second value is the default.
    DividedBy(&'static str, f64),
}

/// The factor of attention scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AttentionScale {
    /// `head_dim^-0.5`
    HeadDim,
    /// The value of this config key to the power of -0.5; the second value is the default.
    InverseRoot(&'static str, f64),
    /// The value of this config key; the second value is the default.
    Times(&'static str, f64),
    /// `head_dim^-0.5`, or 1 if `scale_attn_weights` is false; divided by the layer's number (from 1) under
    /// `scale_attn_by_inverse_layer_idx`.
    ByLayer,
}

impl Family {
    /// Returns where a layer of this family applies its norms.
    pub(crate) fn norm_place(&self, parallel_residual: bool) -> NormPlace {
        if parallel_residual { self.norm.place_when_parallel } else { self.norm.place }
    }
}
