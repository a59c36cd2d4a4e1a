//! The engine: runs one model for many requests at the same time.
//!
//! ```text
//! Engine::submit ─ channel ─> thread: Scheduler ─ Batch ─> Forward ─ logits ─> Sampler ─ Event ─> Sink
//! Engine::capture ──┘                     └── BlockPool ──────┘ └─ Hooks ─ states ─> CaptureSink
//! ```
//!
//! The engine is one thread (and its compute threads) that owns everything that the model needs. Callers talk to it
//! through [`Engine::submit`] and their own [`Sink`]. It knows no async, no protobuf and no HTTP: the Runtime adds
//! those.
//!
//! | folder | content |
//! |---|---|
//! | `scheduler` | continuous batching: admission, preemption, chunked and layer-wise prefill, speculative decoding, captures |
//! | `kv_cache` | blocks of keys and values, and the prefix cache |
//! | `sampling` | from logits to tokens, with or without a grammar |
//! | `forward` | the forward pass on the host |
//! | `candle` | the forward pass on GPUs |
//! | `matmul` | weight matrices and kernels |
//! | `sys` | threads, memory, instruction sets |

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

mod candle;
mod capture;
mod device;
mod engine;
mod error;
mod forward;
mod kv_cache;
mod matmul;
mod options;
mod request;
mod sampling;
mod scheduler;
mod stats;
mod sys;

#[cfg(feature = "cuda")]
pub use candle::gpu_uuid;
pub use candle::{CUDA_CONTEXT_BYTES, CandleDecoder, DeviceHandle, candle_tensor_bytes};
pub use capture::{
    CaptureError, CaptureRequest, CaptureRows, CaptureSink, InvalidCapture, MAX_CAPTURE_SEQUENCES,
    MAX_CAPTURE_TOKENS, MAX_CAPTURES, MAX_DELIVERY_BYTES,
};
pub use device::Device;
pub use engine::Engine;
pub use error::{Error, Result};
pub use forward::Forward;
pub use forward::batch::{Batch, BatchCapacity, Logits, Segment};
pub use forward::decoder::Decoder;
pub use forward::hooks::{Hook, HookPoint, Hooks, NoHooks};
pub use forward::load::{LoadProgress, LoadStage};
pub use kv_cache::{
    BLOCK_SIZE, BlockCopy, BlockKey, BlockPool, BlockTable, KvSlot, KvType, PrefixId, SequenceId,
};
pub use options::{EngineOptions, Memory};
pub use request::{EndReason, Event, MAX_DRAFT_TOKENS, Request, Sink, SubmitError, Token};
pub use sampling::{AllowedTokens, Constraint, ConstraintError, InvalidParameter, SamplingParams};
pub use stats::Stats;
pub use sys::bandwidth::bandwidth;
pub use sys::cpu::KernelSet;
pub use sys::thread_pool::ThreadPool;
