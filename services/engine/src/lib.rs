//! What a model does: one decoder for all families, KV cache, batcher, sampler, taps.
//!
//! ```text
//! Engine::submit ─ bounded channel ─> thread: Scheduler ─ Batch ─> Decoder ─ logits ─> Sampler ─ Event ─> Sink
//!                                               └────── KvCache (pages) ──────┘ └─ Taps
//! ```
//!
//! The engine is one thread (and its compute threads) that owns everything a model needs to run; callers talk to it
//! through [`Engine::submit`] and their own [`Sink`]. No async, no protobuf, no HTTP: the Runtime adds those.

pub mod batch;
pub mod cache;
pub mod constraint;
pub mod decoder;
pub mod device;
pub mod engine;
pub mod error;
pub mod known;
pub mod linear;
pub mod load;
pub mod measure;
pub mod options;
pub mod pages;
pub mod request;
pub mod sampler;
pub mod stats;
pub mod taps;
pub mod team;

mod activations;
mod attention;
mod cores;
mod draft;
mod embedding;
mod forward;
mod generation;
mod inputs;
mod kernels;
mod matrix;
mod mlp;
mod mxfp4;
mod norm;
mod panel;
mod pass_outcome;
mod plain;
mod plan;
mod reading;
mod region;
mod rope;
mod running;
mod scheduler;
mod stored;
mod vector;

pub use cache::KvType;
pub use constraint::{Constraint, ConstraintError, Next};
pub use device::Device;
pub use engine::Engine;
pub use error::{Error, Result};
pub use load::{LoadProgress, LoadStage};
pub use options::{EngineOptions, Memory};
pub use request::{EndReason, Event, Request, Sink, SubmitError, Token};
pub use sampler::Sampling;
pub use stats::Stats;
pub use taps::{HookPoint, NoTaps, Taps};
