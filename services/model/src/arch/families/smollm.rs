//! SmolLM 3: Llama in which every fourth layer uses no positions.

use super::llama::{DEFAULTS, LLAMA};
use crate::arch::family::{
    Defaults, Family, GgufFormat, KvHeads, Positions, ROTARY, Rotary, RotatedLayers, Window,
};

/// SmolLM 3.
pub(super) const SMOLLM3: Family = Family {
    architecture: "SmolLM3ForCausalLM",
    name: "smollm3",
    gguf: GgufFormat { architecture: "smollm3", rope_factors: false, ..LLAMA.gguf },
    window: Window::LayersWithoutRope,
    positions: Positions::Rotary(Rotary {
        theta: 2e6,
        layers: RotatedLayers::Listed { interval: 4 },
        ..ROTARY
    }),
    defaults: Defaults {
        kv_heads: KvHeads::Count(4),
        context_length: 32_768,
        tied_embeddings: true,
        ..DEFAULTS
    },
    ..LLAMA
};
