//! Errors of the database.

use millm_kit::ServiceError;
use sqlx::error::ErrorKind;

/// A failed call of the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A row with the same handle or key exists.
    #[error("a row with the same handle or key exists")]
    Duplicate,
    /// The database is locked, full or gone: it may recover.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// A fault of the catalog or of the tables.
    #[error("database error: {0}")]
    Failed(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error.to_string()),
            sqlx::Error::Database(cause) => match cause.kind() {
                ErrorKind::UniqueViolation => Self::Duplicate,
                _ if cause.code().is_some_and(|code| is_transient(&code)) => {
                    Self::Unavailable(error.to_string())
                }
                _ => Self::Failed(error.to_string()),
            },
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Returns whether the database may recover from an error without a change of the catalog.
///
/// `code` is an SQLSTATE, whose first two of five characters are its class, or SQLite's extended result code, whose
/// low byte is the primary one.
fn is_transient(code: &str) -> bool {
    if code.len() == 5 && code.bytes().all(|b| b.is_ascii_alphanumeric()) {
        // Connection exception, transaction rollback, insufficient resources, operator intervention, system error.
        return ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class));
    }
    // BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL.
    code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14 | 15))
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) => {
                tracing::warn!("database unavailable: {cause}");
                Self::service_unavailable("database")
            }
            error @ (StoreError::Duplicate | StoreError::Failed(_)) => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_codes() {
        for code in ["5", "517", "13", "14", "3850", "08006", "57P01", "53100", "40001"] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["1", "19", "2067", "11", "26", "42P01", "23505"] {
            assert!(!is_transient(code), "{code}");
        }
    }
}
