//! The workload: how many tokens each measurement reads and generates.

/// Prompt tokens of the prefill measurement.
pub(crate) const PREFILL: usize = 512;
/// Generated tokens of the decode measurement.
pub(crate) const DECODE: usize = 128;
/// Prompt tokens before the [`DEEP_DECODE`] generated tokens of the decode measurement at depth.
pub(crate) const DEPTH: usize = 1536;
/// Generated tokens of the decode measurement at depth.
pub(crate) const DEEP_DECODE: usize = 32;
/// Generated tokens of each of the parallel streams.
pub(crate) const STREAM_DECODE: usize = 64;
/// Prompt tokens where the length of the prompt does not matter.
pub(crate) const SHORT_PROMPT: usize = 8;
/// Prompt tokens of the request that joins running streams.
pub(crate) const JOINING_PROMPT: usize = 2000;
/// Tokens of the context that all measurements need.
pub(crate) const MIN_CONTEXT: usize =
    if DEPTH + DEEP_DECODE > JOINING_PROMPT { DEPTH + DEEP_DECODE } else { JOINING_PROMPT } + 1;
