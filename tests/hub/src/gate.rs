//! A gate in a body's way: tests wait until it holds something, look around, and open it. This is how
//! they stop a download at an exact byte without sleeping.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Gate {
    open: watch::Sender<bool>,
    held: watch::Sender<u32>,
}

impl Gate {
    pub fn closed() -> Arc<Self> {
        Arc::new(Self { open: watch::Sender::new(false), held: watch::Sender::new(0) })
    }

    /// Opens for good; false, so that `retain` drops the owner.
    pub fn open_and_forget(&self) -> bool {
        self.open.send_replace(true);
        false
    }

    /// How often something was held.
    pub fn held(&self) -> u32 {
        *self.held.borrow()
    }

    /// Waits until `times` bodies have been held.
    pub async fn wait_held(&self, times: u32) {
        // The sender is ours: it cannot go away.
        let _ = self.held.subscribe().wait_for(|held| *held >= times).await;
    }

    /// Stands before the gate until it opens, at most for `limit`.
    pub async fn hold(&self, limit: Option<Duration>) {
        let mut open = self.open.subscribe();
        if *open.borrow() {
            return;
        }
        self.held.send_modify(|held| *held += 1);
        let opened = open.wait_for(|open| *open);
        match limit {
            Some(limit) => drop(tokio::time::timeout(limit, opened).await),
            None => drop(opened.await),
        }
    }
}
