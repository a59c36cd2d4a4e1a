//! Families as data: what the architectures differ in. Adding one is adding a constant here (and, where it needs
//! something no family had before, a field); readers and the decoder never ask "which family is this?".

use crate::spec::{Activation, RopeLayout};

/// One architecture.
#[derive(Debug)]
pub struct Family {
    /// As config.json names it.
    pub architecture: &'static str,
    /// As people name it, and config.json's `model_type`.
    pub name: &'static str,
    /// GGUF's `general.architecture`; families whose converter writes another's name share it.
    pub gguf_architecture: &'static str,
    /// How the converter to GGUF leaves the rows of q and k.
    pub gguf_rope: RopeLayout,
    pub qkv_bias: Presence,
    pub output_bias: Presence,
    pub mlp_bias: Presence,
    pub sliding_window: Window,
    /// What the config class of transformers takes for keys that config.json leaves out.
    pub defaults: Defaults,
    pub names: &'static [TensorName],
}

/// Whether a kind of tensor exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Never,
    Always,
    /// As this boolean of config.json says; absent means no.
    Key(&'static str),
}

/// Which layers see a window only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// None; a `sliding_window` in the config has no effect.
    Never,
    /// All, where `sliding_window` is not null.
    EveryLayer,
    /// Only under `use_sliding_window`: those that `layer_types` names, else those from `max_window_layers` on.
    UpperLayers { first: usize },
}

#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// `None`: as many as query heads.
    pub kv_heads: Option<usize>,
    pub context_length: usize,
    pub norm_eps: f64,
    pub rope_theta: f64,
    pub sliding_window: Option<usize>,
    pub activation: Activation,
}

/// A tensor by both names; `{}` stands for the layer.
#[derive(Debug, Clone, Copy)]
pub struct TensorName {
    pub canonical: &'static str,
    pub hugging_face: &'static str,
}

const fn tensor(canonical: &'static str, hugging_face: &'static str) -> TensorName {
    TensorName { canonical, hugging_face }
}

const LLAMA_NAMES: &[TensorName] = &[
    tensor("token_embd.weight", "model.embed_tokens.weight"),
    tensor("output_norm.weight", "model.norm.weight"),
    tensor("output.weight", "lm_head.weight"),
    tensor("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    tensor("blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight"),
    tensor("blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight"),
    tensor("blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight"),
    tensor("blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight"),
    tensor("blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias"),
    tensor("blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias"),
    tensor("blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias"),
    tensor("blk.{}.attn_output.bias", "model.layers.{}.self_attn.o_proj.bias"),
    tensor("blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    tensor("blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight"),
    tensor("blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight"),
    tensor("blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"),
    tensor("blk.{}.ffn_gate.bias", "model.layers.{}.mlp.gate_proj.bias"),
    tensor("blk.{}.ffn_up.bias", "model.layers.{}.mlp.up_proj.bias"),
    tensor("blk.{}.ffn_down.bias", "model.layers.{}.mlp.down_proj.bias"),
];

pub const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    name: "llama",
    gguf_architecture: "llama",
    gguf_rope: RopeLayout::Interleaved,
    qkv_bias: Presence::Key("attention_bias"),
    output_bias: Presence::Key("attention_bias"),
    mlp_bias: Presence::Key("mlp_bias"),
    sliding_window: Window::Never,
    defaults: LLAMA_DEFAULTS,
    names: LLAMA_NAMES,
};

const LLAMA_DEFAULTS: Defaults = Defaults {
    kv_heads: None,
    context_length: 2048,
    norm_eps: 1e-6,
    rope_theta: 10_000.0,
    sliding_window: None,
    activation: Activation::Silu,
};

/// GGUF has no name for it: converted files say `llama`.
pub const MISTRAL: Family = Family {
    architecture: "MistralForCausalLM",
    name: "mistral",
    qkv_bias: Presence::Never,
    output_bias: Presence::Never,
    mlp_bias: Presence::Never,
    sliding_window: Window::EveryLayer,
    defaults: Defaults {
        kv_heads: Some(8),
        context_length: 131_072,
        sliding_window: Some(4096),
        ..LLAMA_DEFAULTS
    },
    ..LLAMA
};

pub const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    name: "qwen2",
    gguf_architecture: "qwen2",
    gguf_rope: RopeLayout::Half,
    qkv_bias: Presence::Always,
    output_bias: Presence::Never,
    mlp_bias: Presence::Never,
    sliding_window: Window::UpperLayers { first: 28 },
    defaults: Defaults {
        kv_heads: Some(32),
        context_length: 32_768,
        sliding_window: Some(4096),
        ..LLAMA_DEFAULTS
    },
    ..LLAMA
};

/// In the order in which they are listed to people.
pub const FAMILIES: [&Family; 3] = [&LLAMA, &MISTRAL, &QWEN2];

impl Family {
    /// The names of all architectures, for messages.
    pub fn supported() -> String {
        FAMILIES.map(|family| family.architecture).join(", ")
    }

    /// By config.json's name: `LlamaForCausalLM`.
    pub fn by_architecture(architecture: &str) -> Option<&'static Self> {
        FAMILIES.into_iter().find(|family| family.architecture == architecture)
    }

    /// By config.json's `model_type`: `llama`.
    pub fn by_model_type(model_type: &str) -> Option<&'static Self> {
        FAMILIES.into_iter().find(|family| family.name == model_type)
    }

    /// By GGUF's `general.architecture`; where families share one, the first.
    pub fn by_gguf_name(name: &str) -> Option<&'static Self> {
        FAMILIES.into_iter().find(|family| family.gguf_architecture == name)
    }

    /// The canonical name of a tensor that a safetensors file calls `name`; `None` for names the family has not.
    pub fn canonical_name(&self, name: &str) -> Option<String> {
        self.names.iter().find_map(|pair| rename(name, pair.hugging_face, pair.canonical))
    }

    /// The safetensors name of a canonical one.
    pub fn hugging_face_name(&self, canonical: &str) -> Option<String> {
        self.names.iter().find_map(|pair| rename(canonical, pair.canonical, pair.hugging_face))
    }
}

/// `name` said in the terms of `to`, where it has the form `from`.
fn rename(name: &str, from: &str, to: &str) -> Option<String> {
    let Some((head, tail)) = from.split_once("{}") else {
        return (name == from).then(|| to.to_owned());
    };
    let layer = name.strip_prefix(head)?.strip_suffix(tail)?;
    // One spelling per number: `01` beside `1` would be two tensors of one name.
    let number: u32 = layer.parse().ok()?;
    (number.to_string() == layer).then(|| to.replace("{}", layer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_both_ways() {
        let check = |hugging_face: &str, canonical: Option<&str>| {
            assert_eq!(LLAMA.canonical_name(hugging_face).as_deref(), canonical, "{hugging_face}");
            if let Some(canonical) = canonical {
                assert_eq!(LLAMA.hugging_face_name(canonical).as_deref(), Some(hugging_face));
            }
        };
        check("model.embed_tokens.weight", Some("token_embd.weight"));
        check("model.layers.31.mlp.down_proj.weight", Some("blk.31.ffn_down.weight"));
        check("model.layers.0.self_attn.q_proj.bias", Some("blk.0.attn_q.bias"));
        check("model.layers.01.self_attn.q_proj.bias", None);
        check("model.layers.+1.self_attn.q_proj.bias", None);
        check("model.layers..self_attn.q_proj.bias", None);
        check("model.layers.0.self_attn.rotary_emb.inv_freq", None);
        check("", None);
    }

    #[test]
    fn families_are_found_by_every_name() {
        for family in FAMILIES {
            assert_eq!(Family::by_architecture(family.architecture).map(|f| f.name), Some(family.name));
            assert_eq!(Family::by_model_type(family.name).map(|f| f.name), Some(family.name));
        }
        assert_eq!(Family::by_gguf_name("llama").map(|f| f.name), Some("llama"));
        assert_eq!(Family::by_gguf_name("qwen2").map(|f| f.name), Some("qwen2"));
        assert!(Family::by_gguf_name("bert").is_none());
        assert!(Family::supported().contains("MistralForCausalLM"));
    }
}
