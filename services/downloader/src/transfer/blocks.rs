//! The memory that a download's bytes pass through: a fixed number of blocks, aligned for the disk and used again.
//! Whoever wants one waits, so that neither a slow disk nor a slow hasher makes memory grow.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use memmap2::MmapMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::policy::{BLOCK_BYTES, SPARE_BLOCKS};

/// What unbuffered writes want of addresses and lengths, on every disk of today.
pub const ALIGNMENT: usize = 4096;

#[derive(Debug)]
pub struct Pool {
    permits: Arc<Semaphore>,
    spare: Mutex<Vec<MmapMut>>,
}

impl Pool {
    pub fn new(blocks: usize) -> Arc<Self> {
        Arc::new(Self { permits: Arc::new(Semaphore::new(blocks)), spare: Mutex::default() })
    }

    /// Errors when the system has no memory.
    pub async fn take(self: &Arc<Self>) -> io::Result<Block> {
        // Never closed, so never an error.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // Straight from the system: pages, aligned by nature, that are given back whole.
        let memory = spare.map_or_else(|| MmapMut::map_anon(BLOCK_BYTES as usize), Ok)?;
        Ok(Block { memory: Some(memory), len: 0, pool: Arc::clone(self), _permit: permit })
    }

    /// Whether blocks that only wait for their turn to be hashed should be given back, lest those who fetch what they
    /// wait for find none.
    pub fn is_tight(&self) -> bool {
        self.permits.available_permits() < SPARE_BLOCKS
    }
}

/// Room for [`BLOCK_BYTES`], filled from its start; goes back to its pool when dropped.
#[derive(Debug)]
pub struct Block {
    /// `None` only while it is dropped.
    memory: Option<MmapMut>,
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
        let Some(memory) = &mut self.memory else { return 0 };
        let taken = bytes.len().min(end.saturating_sub(self.len));
        memory[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        taken
    }

    /// What was filled in.
    pub fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory[..self.len])
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut spare = self.pool.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.extend(self.memory.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blocks_are_aligned_bounded_and_used_again() {
        let pool = Pool::new(2);
        let mut first = pool.take().await.unwrap();
        assert_eq!(first.fill(&[7; 10], 4), 4);
        assert_eq!(first.fill(&[8; 10], 4), 0);
        assert_eq!(first.bytes(), [7; 4]);
        assert!(first.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT));
        let second = pool.take().await.unwrap();
        assert!(futures::poll!(std::pin::pin!(pool.take())).is_pending());
        let place = first.bytes().as_ptr();
        drop(first);
        let again = pool.take().await.unwrap();
        assert_eq!((again.bytes().as_ptr(), again.len()), (place, 0));
        drop(second);
    }
}
