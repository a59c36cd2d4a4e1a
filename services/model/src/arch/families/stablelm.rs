//! StableLM: Llama with LayerNorm, and a quarter of each head rotated.

use super::llama::{ATTENTION, DEFAULTS, ENDS, LLAMA, MLP, NORMS};
use super::starcoder::NORM_BIASES;
use crate::arch::family::{
    CONFIG_KEYS, ConfigKeys, Defaults, Family, GgufFormat, KvHeads, LAYER_NORM, Norm, Positions, Presence,
    ROTARY, Residual, Rotary,
};
use crate::arch::kinds::{NormPlace, RopeLayout};

/// StableLM 2 and 3B.
pub(super) const STABLELM: Family = Family {
    architecture: "StableLmForCausalLM",
    name: "stablelm",
    gguf: GgufFormat { architecture: "stablelm", rope: RopeLayout::Half, rope_factors: false, ..LLAMA.gguf },
    keys: ConfigKeys { norm_eps: "layer_norm_eps", ..CONFIG_KEYS },
    names: &[ENDS, NORMS, NORM_BIASES, ATTENTION, MLP],
    norm: Norm { place_when_parallel: NormPlace::BeforeShared, ..LAYER_NORM },
    residual: Residual::Key("use_parallel_residual", false),
    qkv_bias: Presence::Key("use_qkv_bias", false),
    output_bias: Presence::Never,
    mlp_bias: Presence::Never,
    positions: Positions::Rotary(Rotary { partial: Some(("partial_rotary_factor", 0.25)), ..ROTARY }),
    defaults: Defaults { kv_heads: KvHeads::Count(32), context_length: 4096, norm_eps: 1e-5, ..DEFAULTS },
    ..LLAMA
};
