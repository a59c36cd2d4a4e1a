//! The memory that a download's bytes pass through: a fixed number of blocks, aligned for the disk and used again.
//! Whoever wants one waits, so that neither a slow disk nor a slow hasher makes memory grow.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::policy::{BLOCK_BYTES, SPARE_BLOCKS};

/// What unbuffered writes want of addresses and lengths, on every disk of today.
pub const ALIGNMENT: usize = 4096;

#[derive(Debug)]
pub struct Pool {
    permits: Arc<Semaphore>,
    spare: Mutex<Vec<Buffer>>,
}

impl Pool {
    pub fn new(blocks: usize) -> Arc<Self> {
        Arc::new(Self { permits: Arc::new(Semaphore::new(blocks)), spare: Mutex::default() })
    }

    pub async fn take(self: &Arc<Self>) -> Block {
        // Never closed, so never an error.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let buffer = spare.unwrap_or_else(Buffer::new);
        Block { buffer: Some(buffer), len: 0, pool: Arc::clone(self), _permit: permit }
    }

    /// Whether blocks that only wait for their turn should be given back, lest those who fetch what they wait for
    /// find none.
    pub fn is_tight(&self) -> bool {
        self.permits.available_permits() < SPARE_BLOCKS
    }
}

/// Room for [`BLOCK_BYTES`], filled from its start; goes back to its pool when dropped.
#[derive(Debug)]
pub struct Block {
    buffer: Option<Buffer>,
    len: usize,
    pool: Arc<Pool>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Block {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes of `bytes` what fits before `end`; how much that was.
    pub fn fill(&mut self, bytes: &[u8], end: usize) -> usize {
        let Some(buffer) = &mut self.buffer else { return 0 };
        let taken = bytes.len().min(end.saturating_sub(self.len));
        buffer.bytes_mut()[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        taken
    }

    /// What was filled in.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer.bytes()[..self.len])
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut spare = self.pool.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.extend(self.buffer.take());
    }
}

/// Memory whose used part is aligned.
#[derive(Debug)]
struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let memory = vec![0; BLOCK_BYTES as usize + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + BLOCK_BYTES as usize]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + BLOCK_BYTES as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blocks_are_aligned_bounded_and_used_again() {
        let pool = Pool::new(2);
        let mut first = pool.take().await;
        assert_eq!(first.fill(&[7; 10], 4), 4);
        assert_eq!(first.fill(&[8; 10], 4), 0);
        assert_eq!(first.bytes(), [7; 4]);
        assert!(first.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT));
        let second = pool.take().await;
        assert!(futures::poll!(std::pin::pin!(pool.take())).is_pending());
        let place = first.bytes().as_ptr();
        drop(first);
        let again = pool.take().await;
        assert_eq!((again.bytes().as_ptr(), again.len()), (place, 0));
        drop(second);
    }
}
