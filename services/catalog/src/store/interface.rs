//! The interface of the store, which both databases implement.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{error::StoreError, row::ModelRow};

/// The longest time that a call waits for the database.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a call of the store.
pub(crate) type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The rows of models. No call takes longer than [`QUERY_TIMEOUT`].
pub(crate) trait Store: Send + Sync + 'static {
    /// Inserts a row and returns it with its id. `Duplicate` if its handle or key exists.
    fn insert(&self, row: ModelRow) -> StoreFuture<'_, ModelRow>;
    /// Returns the row with this id.
    fn get(&self, id: i64) -> StoreFuture<'_, Option<ModelRow>>;
    /// Returns the row with this handle.
    fn find(&self, handle: String) -> StoreFuture<'_, Option<ModelRow>>;
    /// Returns the row with the same key: repository, quantization and file, or local path.
    fn find_same(&self, row: ModelRow) -> StoreFuture<'_, Option<ModelRow>>;
    /// Returns all handles with this prefix.
    fn handles(&self, prefix: String) -> StoreFuture<'_, Vec<String>>;
    /// Returns at most `limit` rows with ids greater than `after`, in the order of their ids.
    fn list(&self, filter: Filter, after: i64, limit: i64) -> StoreFuture<'_, Vec<ModelRow>>;
    /// Counts the rows that match.
    fn count(&self, filter: Filter) -> StoreFuture<'_, i64>;
    /// Replaces the row and returns true if its version is still `version`. `Duplicate` if its new handle exists.
    fn replace(&self, row: ModelRow, version: i64) -> StoreFuture<'_, bool>;
    /// Deletes the row, only in this version if one is given. Returns whether there was one.
    fn delete(&self, id: i64, version: Option<i64>) -> StoreFuture<'_, bool>;
    /// Checks that the database answers.
    fn ping(&self) -> StoreFuture<'_, ()>;
}

/// The filter of a list. Empty parts match every row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// States as stored: `READY`.
    pub states: Vec<String>,
    /// A part of the row's search text, in any case.
    pub text: String,
}
