//! Where the rows are kept. [`Store`] is what the service needs; [`open()`] gives it on SQLite or PostgreSQL.
//!
//! Writes are single statements guarded by the row's version, so no call holds a transaction open.

mod open;
mod row;
mod sql;

use std::time::Duration;

use futures::future::BoxFuture;
use millm_kit::ServiceError;
use sqlx::error::ErrorKind;

pub use open::open;
pub use row::{ModelRow, state_word};

/// The longest that any call waits for the database.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Rows of models. All calls are bounded by [`PATIENCE`].
pub trait Store: Send + Sync + 'static {
    /// Writes a new row and gives it back with its id. `Taken` when handle or key exist already.
    fn insert(&self, row: ModelRow) -> Answer<'_, ModelRow>;
    fn get(&self, id: i64) -> Answer<'_, Option<ModelRow>>;
    fn find(&self, handle: String) -> Answer<'_, Option<ModelRow>>;
    /// The row with the same key: repository, quantization and file, or local path.
    fn find_same(&self, row: ModelRow) -> Answer<'_, Option<ModelRow>>;
    /// Every handle that begins so.
    fn handles(&self, prefix: String) -> Answer<'_, Vec<String>>;
    /// Rows in the order of their ids, at most `limit`, from those after `after`.
    fn list(&self, filter: Filter, after: i64, limit: i64) -> Answer<'_, Vec<ModelRow>>;
    fn count(&self, filter: Filter) -> Answer<'_, i64>;
    /// Writes the row if its version is still `version`; else says false. `Taken` when the handle is.
    fn replace(&self, row: ModelRow, version: i64) -> Answer<'_, bool>;
    /// Removes the row, of this version if one is given; false when there is no such row.
    fn delete(&self, id: i64, version: Option<i64>) -> Answer<'_, bool>;
    /// Whether the database answers.
    fn ping(&self) -> Answer<'_, ()>;
}

/// What a list shows. Empty parts do not restrict.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// As stored: `READY`.
    pub states: Vec<String>,
    /// Part of the row's searched text, any case.
    pub text: String,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique value exists already.
    #[error("a unique value is taken")]
    Taken,
    /// Locked, full, gone: it may come back.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// Ours to mend.
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
                ErrorKind::UniqueViolation => Self::Taken,
                _ if cause.code().is_some_and(|code| may_pass(&code)) => Self::Unavailable(error.to_string()),
                _ => Self::Failed(error.to_string()),
            },
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Whether the database may be well again without our doing: by SQLSTATE class (five characters), or by
/// SQLite's result code, whose low byte is the primary one.
fn may_pass(code: &str) -> bool {
    if code.len() == 5 && code.bytes().all(|b| b.is_ascii_alphanumeric()) {
        // Connection, transaction rolled back, resources, operator intervention, system error.
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
            error @ (StoreError::Taken | StoreError::Failed(_)) => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_pass() {
        for code in ["5", "517", "13", "14", "3850", "08006", "57P01", "53100", "40001"] {
            assert!(may_pass(code), "{code}");
        }
        for code in ["1", "19", "2067", "11", "26", "42P01", "23505"] {
            assert!(!may_pass(code), "{code}");
        }
    }
}
