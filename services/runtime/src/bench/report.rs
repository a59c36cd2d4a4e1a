//! The report of a benchmark.

use serde::Serialize;

use super::{decoding_modes::DecodingModes, figures::Figures, interference::InterTokenLatency};

/// The result of a benchmark: medians of all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The name of the model's file or folder.
    pub model: String,
    /// The device: `cpu`, `cuda:0`.
    pub device: String,
    /// Compute threads.
    pub threads: usize,
    /// Parallel streams.
    pub streams: usize,
    /// Repetitions.
    pub rounds: usize,
    /// Bytes of the model's files.
    pub file_bytes: u64,
    /// Bytes of the weights in memory.
    pub weight_bytes: u64,
    /// The memory estimate by which loads are admitted, in bytes.
    pub estimated_bytes: u64,
    /// Bytes in use with the model loaded and every slot used. Pages of mapped files do not count.
    pub used_bytes: u64,
    /// Bytes per second that the threads read from memory. Not measured on GPUs.
    pub bandwidth: Option<f64>,
    /// Bytes of the weights that one token reads.
    pub bytes_per_token: u64,
    /// Decode's share of the rate that the bandwidth allows: `decode * bytes_per_token / bandwidth`.
    pub roofline_share: Option<f64>,
    /// miLLM's figures.
    pub millm: Figures,
    /// miLLM's rates of the ways to choose tokens.
    pub decoding_modes: DecodingModes,
    /// The latency of running streams while another request's long prompt is processed.
    pub inter_token_latency: InterTokenLatency,
    /// [`InterTokenLatency::p99_seconds`] in decode steps of all streams.
    pub p99_latency_steps: f64,
    /// The share of the time of a response that a JSON schema takes.
    pub constraint_overhead: f64,
    /// The speed of repetitive text with speculative decoding, relative to the speed without.
    pub speculation_speedup: f64,
    /// llama.cpp's figures.
    pub llama_cpp: Option<Figures>,
}
