//! The limits that all files of one download share: connections and their speeds, buffers, the order of the large
//! files, and the pause that a server asked for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{buffer_pool::BufferPool, slow_connection::ConnectionSpeeds};
use crate::limits::{CONNECTIONS, POOL_BUFFERS};

/// The shared limits of one download.
#[derive(Debug)]
pub(crate) struct SharedLimits {
    pub(super) pool: Arc<BufferPool>,
    pub(super) speeds: ConnectionSpeeds,
    connections: Semaphore,
    /// Held by the large file whose blocks are handed out. The next file begins when all are handed out.
    turn: Arc<Semaphore>,
    not_before: Mutex<Instant>,
}

impl SharedLimits {
    /// Makes the limits of a new download.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            pool: BufferPool::new(POOL_BUFFERS),
            speeds: ConnectionSpeeds::default(),
            connections: Semaphore::new(CONNECTIONS),
            turn: Arc::new(Semaphore::new(1)),
            not_before: Mutex::new(Instant::now()),
        })
    }

    /// Waits for one of the connections, and for the end of a pause that a server asked for.
    pub(super) async fn acquire_connection(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphores are never closed, so there is no error, here and below.
        let connection = self.connections.acquire().await.ok();
        let until = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::time::sleep_until(until).await;
        connection
    }

    /// Waits for a large file's turn.
    pub(super) async fn acquire_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    /// Pauses all connections of the download: the server asked for it.
    pub(super) fn pause_all(&self, pause: Duration) {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = (*not_before).max(Instant::now() + pause);
    }
}
