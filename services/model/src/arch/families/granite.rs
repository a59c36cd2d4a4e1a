//! Granite 3: Llama with factors on embeddings, scores, residual and logits.

use super::llama::LLAMA;
use crate::arch::family::{AttentionScale, Family, GgufFormat, SCALES, Scale, Scales};

/// Granite 3.
pub(super) const GRANITE: Family = Family {
    architecture: "GraniteForCausalLM",
    name: "granite",
    gguf: GgufFormat { architecture: "granite", ..LLAMA.gguf },
    scales: Scales {
        attention: AttentionScale::Times("attention_multiplier", 1.0),
        embedding: Scale::Times("embedding_multiplier", 1.0),
        residual: Scale::Times("residual_multiplier", 1.0),
        logits: Scale::DividedBy("logits_scaling", 1.0),
        ..SCALES
    },
    ..LLAMA
};
