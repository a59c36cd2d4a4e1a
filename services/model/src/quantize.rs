//! Quantization: a published checkpoint into one GGUF file of the asked-for scheme.
//!
//! The Downloader calls `quantize` after verification (and the Runtime for local models quantized at load). It
//! works tensor by tensor from the mapped source, holds a few megabytes at a time, and writes the file where it
//! is told; renaming it into place is the caller's part.

mod convert;
mod decode;
mod describe;
pub mod encode;
mod output;
mod plan;
mod pre_tokenizer;
mod run;
mod vocabulary;
mod written;

pub use plan::{Plan, PlannedTensor, Scheme, plan, planned_bytes, tensor_type_for};
pub use run::{Outcome, Progress, Request, WrittenTensor, quantize};
