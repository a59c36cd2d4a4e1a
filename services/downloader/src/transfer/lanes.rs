//! What the files of one download share: its connections and their pace, its memory, the order of its large files, and the pause
//! that a server asked for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{blocks::Pool, pace::Pace};
use crate::policy::{CONNECTIONS, POOL_BLOCKS};

#[derive(Debug)]
pub struct Lanes {
    pub pool: Arc<Pool>,
    pub pace: Pace,
    connections: Semaphore,
    /// Who has it hands out the blocks of its file; the next one begins when all are handed out.
    turn: Arc<Semaphore>,
    not_before: Mutex<Instant>,
}

impl Lanes {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            pool: Pool::new(POOL_BLOCKS),
            pace: Pace::default(),
            connections: Semaphore::new(CONNECTIONS),
            turn: Arc::new(Semaphore::new(1)),
            not_before: Mutex::new(Instant::now()),
        })
    }

    /// The right to one connection, after any pause that holds for all.
    pub async fn connection(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so never an error; here and below.
        let connection = self.connections.acquire().await.ok();
        let until = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::time::sleep_until(until).await;
        connection
    }

    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    /// The server wants to be left alone by everybody.
    pub fn wait_all(&self, pause: Duration) {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = (*not_before).max(Instant::now() + pause);
    }
}
