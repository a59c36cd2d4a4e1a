//! The state that the service and its background tasks share.

use std::sync::Arc;

use millm_kit::ServiceError;
use millm_proto::catalog::v1::Model;
use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::{
    change_feed::{Change, ChangeFeed},
    store::{EntityStore, Filter, ModelRow, QUERY_TIMEOUT, Store, StoreError},
};

/// Rows that are read at a time.
const PAGE_SIZE: i64 = 500;

/// The state that the service and its background tasks share.
pub(crate) struct Context {
    pub store: Box<dyn Store>,
    /// Datasets and templates.
    pub entities: Box<dyn EntityStore>,
    /// The catalog's id, created with its tables.
    pub catalog_id: String,
    pub feed: ChangeFeed,
    /// Held while a change is written and published, so that watchers see changes in the order of their writing.
    pub write_lock: Mutex<()>,
    /// Wakes the health check after a failed query.
    pub query_failed: Notify,
}

impl Context {
    /// Returns the state on an open store.
    pub fn new(store: Box<dyn Store>, entities: Box<dyn EntityStore>, catalog_id: String) -> Self {
        Self {
            store,
            entities,
            catalog_id,
            feed: ChangeFeed::default(),
            write_lock: Mutex::new(()),
            query_failed: Notify::new(),
        }
    }

    /// Returns the caller's error for a failed query, and has the health of the database checked.
    pub fn store_error(&self, error: StoreError) -> ServiceError {
        self.query_failed.notify_one();
        error.into()
    }

    /// Waits for the write lock, no longer than for a query.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE if other writers hold it too long.
    pub async fn lock_for_write(&self) -> Result<MutexGuard<'_, ()>, ServiceError> {
        let locked = tokio::time::timeout(QUERY_TIMEOUT, self.write_lock.lock()).await;
        locked.map_err(|_| self.store_error(StoreError::Unavailable("timeout of the write lock".to_owned())))
    }

    /// Publishes a written row and returns it as a model. The caller holds the write lock.
    pub fn publish(&self, row: ModelRow) -> Model {
        let version = row.version;
        let model = Arc::new(row.into_model());
        self.feed.publish(Change::Put(model.clone(), version));
        Arc::unwrap_or_clone(model)
    }

    /// Reads all rows, in the order of their ids.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE or INTERNAL if a query fails.
    pub async fn all_rows(&self) -> Result<Vec<ModelRow>, ServiceError> {
        let mut rows = Vec::new();
        loop {
            let after = rows.last().map_or(0, |row: &ModelRow| row.id);
            let page = self.store.list(Filter::default(), after, PAGE_SIZE).await;
            let page = page.map_err(|e| self.store_error(e))?;
            let is_last = (page.len() as i64) < PAGE_SIZE;
            rows.extend(page);
            if is_last {
                return Ok(rows);
            }
        }
    }
}
