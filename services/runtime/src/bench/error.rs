//! Errors of benchmarks.

use super::options::shapes;

/// The benchmark failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No synthetic model has this shape.
    #[error("'{0}' is not a shape of synthetic models: use {names}", names = shapes().join(", "))]
    Shape(String),
    /// The quantization is not known.
    #[error("'{0}' is not a quantization: use Q2, Q4, Q8 or FP16")]
    Quantization(String),
    /// An option is 0 that must not be.
    #[error("{option} must be at least 1")]
    Zero {
        /// The option.
        option: &'static str,
    },
    /// The model's context is too short for the workload.
    #[error("the model's context of {context} tokens is too short: {needed} are needed")]
    Context {
        /// Tokens of the model's context.
        context: usize,
        /// Tokens that the workload needs.
        needed: usize,
    },
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] millm_model::Error),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] millm_engine::Error),
    /// The engine refused a request.
    #[error("the engine refused a request: {0}")]
    Refused(#[from] millm_engine::SubmitError),
    /// The sandbox failed.
    #[error("the sandbox: {0}")]
    Sandbox(#[from] millm_sandbox::Error),
    /// The engine ended a request early.
    #[error("the engine ended a request: {0}")]
    Ended(String),
    /// A program of llama.cpp failed.
    #[error("{program}: {why}")]
    LlamaCpp {
        /// The program.
        program: String,
        /// The reason of the failure.
        why: String,
    },
    /// A program of llama.cpp cannot be started or called.
    #[error("{program}: {source}")]
    Io {
        /// The program.
        program: String,
        /// The system's error.
        source: std::io::Error,
    },
}
