//! The feed of changes: writers publish to it, watchers subscribe.

use std::sync::Arc;

use millm_proto::catalog::v1::Model;
use tokio::sync::broadcast;

/// Changes that a slow subscriber may be behind before it must read the whole list again.
const CAPACITY: usize = 256;

/// A published change.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// The model was created or changed. Comes with the version of its row.
    Put(Arc<Model>, i64),
    /// The model with this id was deleted.
    Deleted(i64),
    /// Changes may have been missed: read the whole list again.
    Resync,
}

/// Sends each change to all subscribers.
pub(crate) struct ChangeFeed(broadcast::Sender<Change>);

impl Default for ChangeFeed {
    fn default() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }
}

impl ChangeFeed {
    /// Sends `change` to all subscribers.
    pub fn publish(&self, change: Change) {
        // Fails without subscribers, which is no error.
        let _ = self.0.send(change);
    }

    /// Returns a receiver of the changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.0.subscribe()
    }
}
