//! The one error type of the crate, and how the services report it.

use std::path::PathBuf;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The sentence for a model whose only weights are pickled. It follows the name of a file.
pub const PICKLED_WEIGHTS: &str = "only pickled weights were found; the format is unsafe (reading it runs code) and \
                                   refused, safetensors are needed";

/// The failure of reading, checking or quantizing a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file's content is not what its name says.
    #[error("{file}: {why}")]
    InvalidFile {
        /// The file's name relative to the model, or the part of the model.
        file: String,
        /// The reason, with the place in the file.
        why: String,
    },
    /// The config or header names an architecture that no family has.
    #[error("architecture '{architecture}' is not supported; supported: {supported}")]
    UnsupportedArchitecture {
        /// The name that was found, shortened.
        architecture: String,
        /// The names of all supported architectures.
        supported: String,
    },
    /// A config field changes the result, and this version does not implement it.
    #[error("config.json: {field} = {value} is not supported")]
    UnsupportedField {
        /// The field's name, with the object that it is within.
        field: String,
        /// The field's value, shortened.
        value: String,
    },
    /// The only weights are `.bin`, `.pt`, `.pth`, `.ckpt` or `.pkl`: unpickling runs code.
    #[error("{file}: {}", PICKLED_WEIGHTS)]
    PickleOnly {
        /// One of the pickled files.
        file: String,
    },
    /// A path that a person gave is not that of a model.
    #[error("invalid model path: {why}")]
    InvalidPath {
        /// The reason, with the path.
        why: String,
    },
    /// The chat template cannot be compiled or rendered.
    #[error("chat template: {0}")]
    Template(String),
    /// The tokenizer cannot be built or run.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The caller cancelled quantization.
    #[error("quantization cancelled")]
    Cancelled,
    /// The operating system failed to read or write a file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// An [`Error`] in the terms of the services' error table. Every service that opens models reports this, so that one
/// fault has one reason and one sentence wherever it is found.
#[derive(Debug)]
pub enum Fault {
    /// `INVALID_MODEL_FILE`
    InvalidModelFile {
        /// The file's name relative to the model, or what part of the model it is.
        file: String,
        /// The sentence that follows the file's name.
        why: String,
    },
    /// `UNSUPPORTED_ARCHITECTURE`
    UnsupportedArchitecture {
        /// The name that was found, shortened.
        architecture: String,
        /// The names of all supported architectures.
        supported: String,
    },
    /// `INVALID_LOCAL_PATH`
    InvalidLocalPath {
        /// The reason, with the path.
        why: String,
    },
    /// `CANCELLED`
    Cancelled,
    /// The operating system failed. The reason depends on what the service was doing.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// Makes an [`Error::InvalidFile`].
    pub fn invalid(file: impl Into<String>, why: impl Into<String>) -> Self {
        Self::InvalidFile { file: file.into(), why: why.into() }
    }

    /// Makes an [`Error::Io`].
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Returns the error in the terms of the services' error table.
    pub fn into_fault(self) -> Fault {
        let file = |file: &str, why: String| Fault::InvalidModelFile { file: file.to_owned(), why };
        match self {
            Self::InvalidFile { file, why } => Fault::InvalidModelFile { file, why },
            Self::UnsupportedArchitecture { architecture, supported } => {
                Fault::UnsupportedArchitecture { architecture, supported }
            }
            Self::UnsupportedField { field, value } => {
                file("config.json", format!("{field} = {value} is not supported"))
            }
            Self::PickleOnly { file: pickled } => file(&pickled, PICKLED_WEIGHTS.to_owned()),
            Self::InvalidPath { why } => Fault::InvalidLocalPath { why },
            Self::Template(why) => file("chat template", why),
            Self::Tokenizer(why) => file("tokenizer", why),
            Self::Cancelled => Fault::Cancelled,
            Self::Io { path, source } => Fault::Io { path, source },
        }
    }
}

/// Shortens a text from a file for a message: names in hostile files are megabytes long.
pub(crate) fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 120;
    text.chars().take(MAX_CHARS).collect()
}
