//! The error type of the crate.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error while an extraction is planned, written, finished, merged or compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is out of range. Its message follows the setting's name.
    #[error("'{field}' {why}")]
    Setting {
        /// The setting's name.
        field: &'static str,
        /// The value found, and what is allowed.
        why: String,
    },
    /// The arrays would be larger than a file can be.
    #[error("the activations would take more than {limit} bytes")]
    TooLarge {
        /// The most bytes that all arrays may take together.
        limit: u64,
    },
    /// The disk, or the quota of its user, is full. What was written stays: the extraction can be resumed.
    #[error("the disk is full: {} could not be written", path.display())]
    DiskFull {
        /// The file that was written.
        path: PathBuf,
    },
    /// The system could not read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file is not what this crate wrote.
    #[error("{file}: {why}")]
    Damaged {
        /// The file's name within its folder.
        file: String,
        /// The value found, and the value expected.
        why: String,
    },
    /// The folders are not the shards of one extraction.
    #[error("{why}")]
    Shards {
        /// The difference, with the folder that has it.
        why: String,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The operating system refused a thread.
    #[error("starting a thread: {0}")]
    Thread(io::Error),
}

impl Error {
    /// Returns the error for a setting. `why` follows its name: "must be at least 1".
    pub(crate) fn setting(field: &'static str, why: impl Into<String>) -> Self {
        Self::Setting { field, why: why.into() }
    }

    /// Returns the error for a file with unexpected content.
    pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        let file = path
            .file_name()
            .map_or_else(|| path.display().to_string(), |name| shown(&name.to_string_lossy()));
        Self::Damaged { file, why: why.into() }
    }

    /// Returns the error of the system for a file.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_owned() }
            }
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

/// Adds the path to an error of the system.
pub(crate) trait At<T> {
    /// Converts the error.
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::io(path, source))
    }
}

/// Returns the beginning of a text from outside, with control characters escaped.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
