//! StarCoder 2: LayerNorm, an MLP without gate, and biases everywhere.

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, NORMS};
use crate::arch::family::{
    CONFIG_KEYS, ConfigKeys, Defaults, Family, GgufFormat, KvHeads, LAYER_NORM, Presence, Window,
};
use crate::arch::kinds::{Activation, MlpKind, RopeLayout};
use crate::arch::tensor_names::{TensorName, tensor};

/// The biases of the norms.
pub(super) const NORM_BIASES: &[TensorName] = &[
    tensor("blk.{}.attn_norm.bias", "model.layers.{}.input_layernorm.bias"),
    tensor("blk.{}.ffn_norm.bias", "model.layers.{}.post_attention_layernorm.bias"),
    tensor("output_norm.bias", "model.norm.bias"),
];

const PLAIN_MLP: &[TensorName] = &[
    tensor("blk.{}.ffn_up.weight", "model.layers.{}.mlp.c_fc.weight"),
    tensor("blk.{}.ffn_up.bias", "model.layers.{}.mlp.c_fc.bias"),
    tensor("blk.{}.ffn_down.weight", "model.layers.{}.mlp.c_proj.weight"),
    tensor("blk.{}.ffn_down.bias", "model.layers.{}.mlp.c_proj.bias"),
];

const BIASED: Presence = Presence::Key("use_bias", true);

/// StarCoder 2.
pub(super) const STARCODER2: Family = Family {
    architecture: "Starcoder2ForCausalLM",
    name: "starcoder2",
    gguf: GgufFormat {
        architecture: "starcoder2",
        rope: RopeLayout::Half,
        rope_factors: false,
        ..LLAMA.gguf
    },
    keys: ConfigKeys { norm_eps: "norm_epsilon", ..CONFIG_KEYS },
    names: &[ENDS, NORMS, NORM_BIASES, ATTENTION, PLAIN_MLP],
    norm: LAYER_NORM,
    mlp: MlpKind::Plain,
    qkv_bias: BIASED,
    output_bias: BIASED,
    mlp_bias: BIASED,
    window: Window::EveryLayer,
    defaults: Defaults {
        kv_heads: KvHeads::Count(2),
        context_length: 4096,
        norm_eps: 1e-5,
        activation: Activation::GeluTanh,
        tied_embeddings: true,
        ..DEFAULTS
    },
    ..LLAMA
};
