//! The errors of this crate, and the conversion of model and disk errors into service errors.

use std::{io, path::PathBuf};

use millm_kit::ServiceError;
use millm_model::{Error as ModelError, Fault};

/// The reason why the Downloader cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The models folder cannot be made or written.
    #[error("models folder '{path}' cannot be written: {source} (MODEL_CACHE_DIR names another)")]
    Folder {
        /// The folder that `MODEL_CACHE_DIR` names.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The HTTP client for the hub cannot be made.
    #[error("cannot make an HTTP client: {0}")]
    Http(reqwest::Error),
}

/// Converts an error of `millm-model`. `name` is the model's repository or path, as people know it.
pub(crate) fn from_model(name: &str, error: ModelError) -> ServiceError {
    match error.into_fault() {
        Fault::InvalidModelFile { file, why } => ServiceError::invalid_model_file(file, why),
        Fault::UnsupportedArchitecture { architecture, supported } => {
            ServiceError::unsupported_architecture(architecture, supported)
        }
        Fault::InvalidLocalPath { why } => ServiceError::invalid_local_path(why),
        Fault::Cancelled => ServiceError::cancelled(),
        Fault::Io { path, source } if is_disk_full(&source) => {
            tracing::warn!(path = %path.display(), "disk full");
            disk_full(name)
        }
        Fault::Io { path, source } => ServiceError::internal(format!("{}: {source}", path.display())),
    }
}

/// Returns the error for a repository or folder whose only weights are pickled.
pub(crate) fn pickle_only(file: &str) -> ServiceError {
    ServiceError::invalid_model_file(file, millm_model::PICKLED_WEIGHTS)
}

/// Returns the error for a disk that filled up during a write. The number of missing bytes is not known then.
pub(crate) fn disk_full(name: &str) -> ServiceError {
    ServiceError::new(
        millm_kit::Reason::InsufficientDisk,
        format!("Insufficient disk space. The disk filled up while '{name}' was written."),
    )
}

/// Converts an error of our own files. `operation` names what was done, for the log.
pub(crate) fn from_disk(name: &str, operation: &str, error: &io::Error) -> ServiceError {
    if is_disk_full(error) {
        disk_full(name)
    } else {
        ServiceError::internal(format!("{operation}: {error}"))
    }
}

/// Returns whether the error says that the disk or a quota is full.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
