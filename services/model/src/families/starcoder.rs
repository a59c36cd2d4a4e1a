//! StarCoder 2: layer norms and a plain MLP, biases everywhere.

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, NORMS};
use crate::family::{Defaults, Family, Gguf, KEYS, Keys, KvHeads, LAYER_NORM, Presence, Window};
use crate::names::{TensorName, tensor};
use crate::spec::{Activation, MlpKind, RopeLayout};

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

pub const STARCODER2: Family = Family {
    architecture: "Starcoder2ForCausalLM",
    name: "starcoder2",
    gguf: Gguf { architecture: "starcoder2", rope: RopeLayout::Half, rope_factors: false, ..LLAMA.gguf },
    keys: Keys { norm_eps: "norm_epsilon", ..KEYS },
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
