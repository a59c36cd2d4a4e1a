//! The families, one file for each group of relatives. A file says what the architectures are called, where their tensors
//! are stored, and in which fields they differ from their relatives.
//!
//! A new family is a constant in a file here, a line in [`FAMILIES`], and a line in `each_family!` of the engine's tests
//! (`services/engine/tests/engine/fixtures.rs`).

mod cohere;
mod gemma;
mod glm;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod llama;
mod olmo;
mod phi;
mod qwen;
mod smollm;
mod stablelm;
mod starcoder;

use super::family::Family;

/// All families, in the order in which messages list them.
pub(crate) const FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &llama::MISTRAL,
    &llama::MIXTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &phi::PHI,
    &phi::PHI3,
    &gpt2::GPT2,
    &gpt_neox::GPT_NEOX,
    &olmo::OLMO2,
    &starcoder::STARCODER2,
    &smollm::SMOLLM3,
    &granite::GRANITE,
    &stablelm::STABLELM,
    &cohere::COHERE,
    &cohere::COHERE2,
    &glm::GLM4,
    &gpt_oss::GPT_OSS,
];
