//! The families, one file for each house: what its architectures are called, what they keep where, and what sets them
//! apart from the others.

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

use crate::family::Family;

/// In the order in which they are listed to people.
pub const FAMILIES: &[&Family] = &[
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
