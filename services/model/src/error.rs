//! The one error type of the crate. Each variant maps to one reason of the services' error table.

use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that is not what its name says: `file` is relative to the model, `why` says what is wrong and where.
    #[error("{file}: {why}")]
    InvalidFile { file: String, why: String },
    #[error("architecture '{architecture}' is not supported; supported: {supported}")]
    UnsupportedArchitecture { architecture: String, supported: String },
    /// A config field that changes the result and that this version does not implement.
    #[error("config.json: {field} = {value} is not supported")]
    UnsupportedField { field: String, value: String },
    /// `.bin`, `.pt`, `.pth`, `.ckpt`, `.pkl` only: unpickling runs code.
    #[error(
        "only pickled weights ({file}) were found; this format is unsafe and refused, publish safetensors"
    )]
    PickleOnly { file: String },
    #[error("invalid model path: {why}")]
    InvalidPath { why: String },
    #[error("chat template: {0}")]
    Template(String),
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    #[error("quantization cancelled")]
    Cancelled,
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

impl Error {
    pub fn invalid(file: impl Into<String>, why: impl Into<String>) -> Self {
        Self::InvalidFile { file: file.into(), why: why.into() }
    }

    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

/// What a file says, in a message: names in hostile files have megabytes.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 120;
    text.chars().take(MOST).collect()
}
