//! Errors of this crate, and how those of `millm-model` and of the disk become the services' errors.

use std::{io, path::PathBuf};

use millm_kit::ServiceError;
use millm_model::Error as ModelError;

/// Why the Downloader cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("models folder '{path}' cannot be written: {source} (MODEL_CACHE_DIR names another)")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot make an HTTP client: {0}")]
    Http(reqwest::Error),
}

/// `name` is what the model is called to people: its repository or path.
pub fn of_model(name: &str, error: ModelError) -> ServiceError {
    match error {
        ModelError::InvalidFile { file, why } => ServiceError::invalid_model_file(file, why),
        ModelError::UnsupportedArchitecture { architecture, supported } => {
            ServiceError::unsupported_architecture(architecture, supported)
        }
        ModelError::UnsupportedField { field, value } => {
            ServiceError::invalid_model_file("config.json", format!("{field} = {value} is not supported"))
        }
        ModelError::PickleOnly { file } => pickle_only(&file),
        ModelError::InvalidPath { why } => ServiceError::invalid_local_path(why),
        ModelError::Template(why) => ServiceError::invalid_model_file("chat template", why),
        ModelError::Tokenizer(why) => ServiceError::invalid_model_file("tokenizer.json", why),
        ModelError::Cancelled => ServiceError::cancelled(),
        ModelError::Io { path, source } if is_disk_full(&source) => {
            tracing::warn!(path = %path.display(), "disk full");
            disk_full(name)
        }
        ModelError::Io { path, source } => ServiceError::internal(format!("{}: {source}", path.display())),
    }
}

pub fn pickle_only(file: &str) -> ServiceError {
    ServiceError::invalid_model_file(
        file,
        "only pickled weights were found; this format is unsafe (reading it runs code) and refused, safetensors are \
         needed",
    )
}

/// The disk filled up while bytes came: how many more would have been needed is not known.
pub fn disk_full(name: &str) -> ServiceError {
    ServiceError::new(
        millm_kit::Reason::InsufficientDisk,
        format!("Insufficient disk space. The disk filled up while '{name}' was written."),
    )
}

/// An error of our own files, with what was being done.
pub fn of_disk(name: &str, doing: &str, error: &io::Error) -> ServiceError {
    if is_disk_full(error) { disk_full(name) } else { ServiceError::internal(format!("{doing}: {error}")) }
}

pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
