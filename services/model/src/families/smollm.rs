//! SmolLM 3: Llama, of whose layers every fourth knows no positions.

use super::llama::{DEFAULTS, LLAMA};
use crate::family::{Defaults, Family, Gguf, KvHeads, Positions, ROTARY, Rotary, TurnedLayers, Window};

pub const SMOLLM3: Family = Family {
    architecture: "SmolLM3ForCausalLM",
    name: "smollm3",
    gguf: Gguf { architecture: "smollm3", rope_factors: false, ..LLAMA.gguf },
    window: Window::Unturned,
    positions: Positions::Rotary(Rotary {
        theta: 2e6,
        layers: TurnedLayers::Listed { interval: 4 },
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
