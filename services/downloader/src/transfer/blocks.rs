//! The memory that a download's bytes pass through: a fixed number of blocks, aligned for the disk and used again.
//! Whoever wants one waits, so that neither a slow disk nor a slow hasher makes memory grow.

use std::{
    fmt, io,
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
    keepers: Mutex<Vec<Arc<Call>>>,
}

/// How somebody who keeps blocks is asked for those that could be had again from the disk.
struct Call(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Call")
    }
}

/// As long as this lives its owner is asked for blocks when there are none.
#[derive(Debug)]
pub struct Keeper {
    call: Arc<Call>,
    pool: Arc<Pool>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.pool.keepers().retain(|call| !Arc::ptr_eq(call, &self.call));
    }
}

impl Pool {
    pub fn new(blocks: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(blocks)),
            spare: Mutex::default(),
            keepers: Mutex::default(),
        })
    }

    fn keepers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Call>>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files share a pool: one that waits for its turn would not notice by itself that another lacks memory.
    pub fn keeper(self: &Arc<Self>, call: impl Fn() + Send + Sync + 'static) -> Keeper {
        let call = Arc::new(Call(Box::new(call)));
        self.keepers().push(Arc::clone(&call));
        Keeper { call, pool: Arc::clone(self) }
    }

    /// Errors when the system has no memory.
    pub async fn take(self: &Arc<Self>) -> io::Result<Block> {
        let permit = if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            Some(permit)
        } else {
            for call in self.keepers().iter() {
                (call.0)();
            }
            // Never closed, so never an error.
            Arc::clone(&self.permits).acquire_owned().await.ok()
        };
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

    #[tokio::test]
    async fn who_keeps_blocks_hears_of_those_who_wait() {
        let pool = Pool::new(1);
        let kept = Arc::new(Mutex::new(Some(pool.take().await.unwrap())));
        let keeper = pool.keeper({
            let kept = Arc::clone(&kept);
            move || drop(kept.lock().unwrap().take())
        });
        let block = pool.take().await.unwrap();
        drop(keeper);
        *kept.lock().unwrap() = Some(block);
        assert!(futures::poll!(std::pin::pin!(pool.take())).is_pending());
    }
}
