//! A gate that holds bodies: a test waits until the gate holds one, inspects the state, and opens it. So a test stops a
//! download at an exact byte without sleeping.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Gate {
    open: watch::Sender<bool>,
    held: watch::Sender<u32>,
}

impl Gate {
    /// Returns a closed gate.
    pub fn closed() -> Arc<Self> {
        Arc::new(Self { open: watch::Sender::new(false), held: watch::Sender::new(0) })
    }

    /// Opens the gate for good. Returns false, so that `retain` drops the owner.
    pub fn open_and_forget(&self) -> bool {
        self.open.send_replace(true);
        false
    }

    /// Returns the number of bodies that were held.
    pub fn held(&self) -> u32 {
        *self.held.borrow()
    }

    /// Waits until `times` bodies have been held.
    pub async fn wait_held(&self, times: u32) {
        // `self` owns the sender, so it is not dropped while this waits.
        let _ = self.held.subscribe().wait_for(|held| *held >= times).await;
    }

    /// Waits until the gate opens, for at most `limit`.
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
