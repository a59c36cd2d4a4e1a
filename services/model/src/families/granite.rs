//! Granite 3: Llama with a factor at every joint.

use super::llama::LLAMA;
use crate::family::{AttentionScale, Family, Gguf, SCALES, Scale, Scales};

pub const GRANITE: Family = Family {
    architecture: "GraniteForCausalLM",
    name: "granite",
    gguf: Gguf { architecture: "granite", ..LLAMA.gguf },
    scales: Scales {
        attention: AttentionScale::Times("attention_multiplier", 1.0),
        embedding: Scale::Times("embedding_multiplier", 1.0),
        residual: Scale::Times("residual_multiplier", 1.0),
        logits: Scale::DividedBy("logits_scaling", 1.0),
        ..SCALES
    },
    ..LLAMA
};
