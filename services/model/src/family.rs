//! What architectures differ in, as data. Each family is a constant in [`crate::families`]; readers and the decoder
//! never ask "which family is this?".

use crate::families::FAMILIES;
use crate::names::TensorName;
use crate::spec::{Activation, MlpKind, NormKind, NormPlace, QkNorm, RopeLayout};
use crate::tensor::TensorType;

/// One architecture.
#[derive(Debug)]
pub struct Family {
    /// As config.json names it.
    pub architecture: &'static str,
    /// As people name it, and config.json's `model_type`.
    pub name: &'static str,
    pub gguf: Gguf,
    pub keys: Keys,
    /// What the config class of transformers takes for keys that config.json leaves out.
    pub defaults: Defaults,
    pub names: &'static [&'static [TensorName]],
    pub norm: Norm,
    pub qk_norm: QkNormed,
    pub residual: Residual,
    pub mlp: MlpKind,
    /// What its configs mean by "gelu".
    pub gelu: Activation,
    pub experts: Option<ExpertKeys>,
    /// How the weights may be published packed; all else in `quantization_config` is refused.
    pub packing: Option<Packing>,
    /// Each head has the score of a token that takes its share of the weight and has no value.
    pub sinks: bool,
    pub qkv_bias: Presence,
    pub output_bias: Presence,
    pub mlp_bias: Presence,
    pub logit_bias: Presence,
    pub window: Window,
    pub positions: Positions,
    pub scales: Scales,
    /// A model of several media whose text is this family's.
    pub wrapper: Option<Wrapper>,
}

/// A model of several media around a text model: that one's config is its `text_config`, and
/// `language_model` is before or within the names of that one's tensors.
#[derive(Debug, Clone, Copy)]
pub struct Wrapper {
    /// As config.json names it.
    pub architecture: &'static str,
    /// config.json's `model_type`.
    pub name: &'static str,
}

/// How a family's GGUF files are, as llama.cpp's converter writes them and llama.cpp reads them.
#[derive(Debug, Clone, Copy)]
pub struct Gguf {
    /// `general.architecture`; families whose converter writes another's name share it.
    pub architecture: &'static str,
    /// How the converter leaves the rows of q and k.
    pub rope: RopeLayout,
    /// q, k and v are one tensor.
    pub fused_qkv: bool,
    /// gate and up are one tensor.
    pub fused_gate_up: bool,
    /// `rope_freqs.weight` is read.
    pub rope_factors: bool,
    /// A model of so many layers scales its scores by the width of the residual over the heads, the others by that of a
    /// head. The format has no key for it.
    pub wide_scale_at: Option<usize>,
    /// A file without the key for it has the family's usual window.
    pub window_by_default: bool,
    /// What its files call otherwise than others'.
    pub names: &'static [TensorName],
}

/// Names of config keys that families say in their own way.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    pub layers: &'static str,
    pub hidden_size: &'static str,
    pub heads: &'static str,
    pub intermediate_size: &'static str,
    pub context_length: &'static str,
    pub norm_eps: &'static str,
    pub activation: &'static str,
}

pub const KEYS: Keys = Keys {
    layers: "num_hidden_layers",
    hidden_size: "hidden_size",
    heads: "num_attention_heads",
    intermediate_size: "intermediate_size",
    context_length: "max_position_embeddings",
    norm_eps: "rms_norm_eps",
    activation: "hidden_act",
};

#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub heads: Option<usize>,
    pub kv_heads: KvHeads,
    /// `None`: the residual's width over the heads.
    pub head_dim: Option<usize>,
    /// `None`: the key is needed.
    pub intermediate_size: Option<Inner>,
    pub vocabulary_size: Option<usize>,
    pub context_length: usize,
    pub norm_eps: f64,
    pub sliding_window: Option<usize>,
    pub activation: Activation,
    pub tied_embeddings: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvHeads {
    /// As many as query heads where the key is absent.
    AsHeads,
    /// As many as query heads, whatever the key says.
    AlwaysAsHeads,
    Count(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inner {
    Size(usize),
    /// So many times the residual's width.
    Times(usize),
}

#[derive(Debug, Clone, Copy)]
pub struct Norm {
    pub kind: NormKind,
    pub place: NormPlace,
    /// With a parallel residual, where that differs.
    pub place_when_parallel: NormPlace,
    pub bias: bool,
    /// What is added to weights as safetensors store them; GGUF files have it in them.
    pub offset: f32,
}

pub const RMS: Norm = Norm {
    kind: NormKind::Rms,
    place: NormPlace::Before,
    place_when_parallel: NormPlace::Before,
    bias: false,
    offset: 0.0,
};

pub const LAYER_NORM: Norm = Norm { kind: NormKind::Layer, bias: true, ..RMS };

/// Whether a kind of tensor exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Never,
    Always,
    /// As this boolean of config.json says; the second is what absent means.
    Key(&'static str, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNormed {
    Never,
    Always(QkNorm),
    /// As this boolean says; absent means no.
    Key(&'static str, QkNorm),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    Serial,
    Parallel,
    /// Parallel as this boolean says; the second is what absent means.
    Key(&'static str, bool),
}

/// How a family's config says what its experts are.
#[derive(Debug, Clone, Copy)]
pub struct ExpertKeys {
    /// Either of these.
    pub count: [&'static str; 2],
    pub default_count: usize,
    pub default_used: usize,
    /// The experts' own intermediate size and its default; `None`: that of other MLPs.
    pub intermediate_size: Option<(&'static str, usize)>,
    /// `None`: the weights of the chosen always add up to 1.
    pub normalized: Option<&'static str>,
    /// Layers without experts: `mlp_only_layers` and `decoder_sparse_step` are read.
    pub some_layers: bool,
    /// What chooses experts has a bias.
    pub router_bias: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// As `quant_method` says it.
    pub method: &'static str,
    /// What the matrices of experts then are.
    pub experts: TensorType,
}

/// Which layers see a window only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// None; a `sliding_window` in the config has no effect.
    Never,
    /// All, where `sliding_window` is not null.
    EveryLayer,
    /// All, under `use_sliding_window`.
    EveryLayerSwitched,
    /// Only under `use_sliding_window`: those that `layer_types` names, else those from `max_window_layers` on.
    UpperLayers { first: usize },
    /// Only under `use_sliding_window`: those that `layer_types` names, else those without positions.
    Unturned,
    /// Those that `layer_types` names, else all but every so manieth; `key` may say the number.
    Alternating { full_every: usize, key: Option<&'static str> },
}

/// How tokens know where they stand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// A table added to the embeddings.
    Learned,
    Rotary(Rotary),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    pub theta: f64,
    /// Beside the parameters' own `rope_theta`.
    pub theta_key: &'static str,
    /// The share of a head that is turned, where the config may say it, with its default.
    pub partial: Option<(&'static str, f64)>,
    /// Of the safetensors.
    pub layout: RopeLayout,
    pub layers: TurnedLayers,
    /// "su" and "yarn" are old names of longrope, and other scalings are unknown.
    pub long_only: bool,
    /// What `original_max_position_embeddings` is where it is absent.
    pub original_context: Option<usize>,
    /// What the config class takes where there are no parameters. GGUF has no key for `truncate`: a family's files mean
    /// the usual one.
    pub scaling: Option<Yarn>,
}

/// Parameters of YaRN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    pub beta_fast: f64,
    pub beta_slow: f64,
    pub original_context: usize,
    pub truncate: bool,
}

pub const ROTARY: Rotary = Rotary {
    theta: 10_000.0,
    theta_key: "rope_theta",
    partial: None,
    layout: RopeLayout::Half,
    layers: TurnedLayers::All,
    long_only: false,
    original_context: None,
    scaling: None,
};

/// Which layers turn queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TurnedLayers {
    All,
    /// All, those with a window by frequencies of their own: `theta` unless `key` says another.
    LocalAndGlobal {
        key: &'static str,
        theta: f64,
    },
    /// Those with a window.
    Windowed,
    /// `no_rope_layers` lists a 0 for those that do not, else every `no_rope_layer_interval`th does not.
    Listed {
        interval: usize,
    },
}

/// Factors and bounds that other families do without.
#[derive(Debug, Clone, Copy)]
pub struct Scales {
    pub attention: AttentionScale,
    pub embedding: Scale,
    pub residual: Scale,
    pub logits: Scale,
    /// Key and default.
    pub attention_soft_cap: Option<(&'static str, Option<f64>)>,
    pub logit_soft_cap: Option<(&'static str, Option<f64>)>,
}

pub const SCALES: Scales = Scales {
    attention: AttentionScale::HeadDim,
    embedding: Scale::One,
    residual: Scale::One,
    logits: Scale::One,
    attention_soft_cap: None,
    logit_soft_cap: None,
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    One,
    RootOfHidden,
    /// Key and default.
    Times(&'static str, f64),
    DividedBy(&'static str, f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AttentionScale {
    /// `head_dim^-0.5`
    HeadDim,
    /// The key's value to the power of -0.5; the second is what absent means.
    InverseRoot(&'static str, f64),
    Times(&'static str, f64),
    /// `head_dim^-0.5` unless `scale_attn_weights` is false, over the layer's number under
    /// `scale_attn_by_inverse_layer_idx`.
    ByLayer,
}

impl Family {
    /// The names of all architectures, for messages.
    pub fn supported() -> String {
        FAMILIES.iter().map(|family| family.architecture).collect::<Vec<_>>().join(", ")
    }

    /// By config.json's name: `LlamaForCausalLM`.
    pub fn by_architecture(architecture: &str) -> Option<&'static Self> {
        FAMILIES.iter().copied().find(|family| family.architecture == architecture)
    }

    /// By config.json's `model_type`: `llama`.
    pub fn by_model_type(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().copied().find(|family| family.name == model_type)
    }

    /// By the wrapper's architecture, or its `model_type` where there is none.
    pub fn within(architecture: Option<&str>, model_type: Option<&str>) -> Option<(&'static Self, Wrapper)> {
        let wrapped = FAMILIES.iter().filter_map(|family| Some((*family, family.wrapper?)));
        let mut named = wrapped.filter(|(_, wrapper)| match architecture {
            Some(architecture) => wrapper.architecture == architecture,
            None => model_type == Some(wrapper.name),
        });
        named.next()
    }

    /// By GGUF's `general.architecture`; where families share one, the first that has experts or has not.
    pub fn by_gguf_name(name: &str, experts: bool) -> Option<&'static Self> {
        let mut named = FAMILIES.iter().copied().filter(|family| family.gguf.architecture == name);
        let first = named.clone().next();
        named.find(|family| family.experts.is_some() == experts).or(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_found_by_every_name() {
        for family in FAMILIES {
            assert_eq!(Family::by_architecture(family.architecture).map(|f| f.name), Some(family.name));
            assert_eq!(Family::by_model_type(family.name).map(|f| f.name), Some(family.name));
        }
        let by_gguf = |name, experts| Family::by_gguf_name(name, experts).map(|f| f.name);
        assert_eq!(by_gguf("llama", false), Some("llama"));
        assert_eq!(by_gguf("llama", true), Some("mixtral"));
        assert_eq!(by_gguf("qwen2", false), Some("qwen2"));
        assert_eq!(by_gguf("bert", false), None);
        assert!(Family::supported().contains("MistralForCausalLM"));
    }
}
