//! The one error type of the crate.

use std::{io, path::Path};

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The longest excerpt of a foreign text in a message, in characters.
const MAX_EXCERPT_CHARS: usize = 200;

/// The failure of reading a dataset.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The content of a file is not valid.
    #[error("{}: {why}", place(file, *row, *byte))]
    Invalid {
        /// The file.
        file: String,
        /// The row within the file, counted from 1, where it is known.
        row: Option<u64>,
        /// The byte of the file (decompressed) at which the row begins, or of the fault within it, where it is known.
        byte: Option<u64>,
        /// What is wrong: the value found, and the limit.
        why: String,
    },
    /// The files together have no row.
    #[error("{file}: has no rows")]
    NoRows {
        /// The first file.
        file: String,
    },
    /// The column that was asked for does not exist or cannot be read, or none was asked for and several could be meant.
    #[error("{why}; the columns are: {columns}")]
    Column {
        /// Why no column was chosen.
        why: String,
        /// The names of all columns, with their kinds.
        columns: String,
    },
    /// The file is not the one that was registered.
    #[error("{file}: has changed since it was registered: {why}")]
    Changed {
        /// The file.
        file: String,
        /// What was registered, and what was found.
        why: String,
    },
    /// The caller stopped the work.
    #[error("cancelled")]
    Cancelled,
    /// The operating system failed to read a file.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// Makes the error of a whole file.
    pub(crate) fn file(file: &Path, why: impl Into<String>) -> Self {
        Self::Invalid { file: file.display().to_string(), row: None, byte: None, why: why.into() }
    }

    /// Makes the error of a row, counted from 1 within its file. `byte` is where the row begins.
    pub(crate) fn row(file: &Path, row: u64, byte: Option<u64>, why: impl Into<String>) -> Self {
        Self::Invalid { file: file.display().to_string(), row: Some(row), byte, why: why.into() }
    }

    /// Makes an [`Error::Io`] of a system's error, and an [`Error::Invalid`] of a decompressor's.
    pub(crate) fn io(file: &Path, source: io::Error) -> Self {
        if source.raw_os_error().is_none() {
            return Self::file(file, source.to_string());
        }
        Self::Io { file: file.display().to_string(), source }
    }

    /// Makes the error of a row that could not be read to its end.
    pub(crate) fn io_at_row(file: &Path, row: u64, byte: Option<u64>, source: io::Error) -> Self {
        if source.raw_os_error().is_none() {
            return Self::row(file, row, byte, source.to_string());
        }
        Self::Io { file: file.display().to_string(), source }
    }

    /// Returns the file, with the row where it is known; empty when the error is of no file.
    pub fn place(&self) -> String {
        match self {
            Self::Invalid { file, row, byte, .. } => place(file, *row, *byte),
            Self::NoRows { file } | Self::Changed { file, .. } | Self::Io { file, .. } => file.clone(),
            Self::Column { .. } | Self::Cancelled => String::new(),
        }
    }

    /// Returns what is wrong, as the sentence that follows [`Self::place`].
    pub fn why(&self) -> String {
        match self {
            Self::Invalid { why, .. } => why.clone(),
            Self::NoRows { .. } => "has no rows".to_owned(),
            Self::Changed { why, .. } => format!("has changed since it was registered: {why}"),
            Self::Io { source, .. } => source.to_string(),
            Self::Column { .. } | Self::Cancelled => self.to_string(),
        }
    }
}

fn place(file: &str, row: Option<u64>, byte: Option<u64>) -> String {
    match (row, byte) {
        (Some(row), Some(byte)) => format!("{file}, row {row} (byte {byte})"),
        (Some(row), None) => format!("{file}, row {row}"),
        (None, _) => file.to_owned(),
    }
}

/// Returns the beginning of a text from a file, with control characters escaped.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(MAX_EXCERPT_CHARS).flat_map(char::escape_debug).collect()
}
