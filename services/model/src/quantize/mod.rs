//! Quantization: a published checkpoint into one GGUF file of a chosen scheme.
//!
//! The Downloader calls [`quantize`] after it has verified a model, and when it registers a local one. Quantization works
//! tensor by tensor from the mapped source, holds a few megabytes at a time, and writes the file at the destination.
//! The caller syncs the file and renames it into place. The Downloader's `jobs/phases/quantize.rs` says what a `kill -9`
//! leaves.

mod convert;
mod decode;
pub mod encode;
mod gguf_layout;
mod metadata;
mod output;
mod plan;
mod pre_tokenizer;
mod run;
mod vocabulary;

pub use plan::{Plan, PlannedTensor, Scheme, plan, planned_bytes, tensor_type_for};
pub use run::{Outcome, Progress, Request, WrittenTensor, quantize};
