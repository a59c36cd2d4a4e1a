//! The buffers that a download's bytes pass through: a fixed number, each for one block, aligned for the disk and used
//! again. A connection waits for a free buffer, so a slow disk or a slow hasher does not make memory grow.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use memmap2::MmapMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{BLOCK_BYTES, SPARE_BUFFERS};

/// The alignment of addresses and lengths that direct writes need on today's disks, in bytes.
pub(crate) const ALIGNMENT: usize = 4096;

/// A pool of buffers, shared by all files of a download.
#[derive(Debug)]
pub(crate) struct BufferPool {
    permits: Arc<Semaphore>,
    spare: Mutex<Vec<MmapMut>>,
    callbacks: Mutex<Vec<Arc<Callback>>>,
}

/// Asks a holder of buffers to release those whose bytes are on the disk.
struct Callback(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Callback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Callback")
    }
}

/// Registers a callback until it is dropped.
#[derive(Debug)]
pub(crate) struct PressureGuard {
    callback: Arc<Callback>,
    pool: Arc<BufferPool>,
}

impl Drop for PressureGuard {
    fn drop(&mut self) {
        self.pool.callbacks().retain(|callback| !Arc::ptr_eq(callback, &self.callback));
    }
}

impl BufferPool {
    /// Makes a pool of this many buffers.
    pub(crate) fn new(buffers: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(buffers)),
            spare: Mutex::default(),
            callbacks: Mutex::default(),
        })
    }

    fn callbacks(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Callback>>> {
        self.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a callback for the moment when no buffer is free. Files share the pool: the hasher of one file would
    /// not notice by itself that another file lacks buffers.
    pub(crate) fn on_pressure(
        self: &Arc<Self>,
        callback: impl Fn() + Send + Sync + 'static,
    ) -> PressureGuard {
        let callback = Arc::new(Callback(Box::new(callback)));
        self.callbacks().push(Arc::clone(&callback));
        PressureGuard { callback, pool: Arc::clone(self) }
    }

    /// Waits for a free buffer.
    ///
    /// # Errors
    ///
    /// Returns the system's error when it has no memory.
    pub(crate) async fn acquire(self: &Arc<Self>) -> io::Result<Buffer> {
        let permit = if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            Some(permit)
        } else {
            for callback in self.callbacks().iter() {
                (callback.0)();
            }
            // The semaphore is never closed, so there is no error.
            Arc::clone(&self.permits).acquire_owned().await.ok()
        };
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // An anonymous mapping is aligned to pages, and goes back to the system whole.
        let memory = spare.map_or_else(|| MmapMut::map_anon(BLOCK_BYTES as usize), Ok)?;
        Ok(Buffer { memory: Some(memory), len: 0, pool: Arc::clone(self), _permit: permit })
    }

    /// Returns whether few buffers are free. Buffers that only wait to be hashed must be released then: the connections
    /// need them for the blocks that the hasher waits for.
    pub(crate) fn is_low(&self) -> bool {
        self.permits.available_permits() < SPARE_BUFFERS
    }
}

/// Room for one block of [`BLOCK_BYTES`], filled from its start. It returns to its pool when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// `None` only during the drop.
    memory: Option<MmapMut>,
    len: usize,
    pool: Arc<BufferPool>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Buffer {
    /// Returns the length of the filled part in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends the part of `bytes` that fits before `end`, and returns its length.
    pub(crate) fn fill(&mut self, bytes: &[u8], end: usize) -> usize {
        let Some(memory) = &mut self.memory else { return 0 };
        let taken = bytes.len().min(end.saturating_sub(self.len));
        memory[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        taken
    }

    /// Returns the filled part.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory[..self.len])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = self.pool.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.extend(self.memory.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn buffers_are_aligned_bounded_and_used_again() {
        let pool = BufferPool::new(2);
        let mut first = pool.acquire().await.unwrap();
        assert_eq!(first.fill(&[7; 10], 4), 4);
        assert_eq!(first.fill(&[8; 10], 4), 0);
        assert_eq!(first.bytes(), [7; 4]);
        assert!(first.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT));
        let second = pool.acquire().await.unwrap();
        assert!(futures::poll!(std::pin::pin!(pool.acquire())).is_pending());
        let place = first.bytes().as_ptr();
        drop(first);
        let again = pool.acquire().await.unwrap();
        assert_eq!((again.bytes().as_ptr(), again.len()), (place, 0));
        drop(second);
    }

    #[tokio::test]
    async fn holders_are_asked_to_release_buffers() {
        let pool = BufferPool::new(1);
        let kept = Arc::new(Mutex::new(Some(pool.acquire().await.unwrap())));
        let guard = pool.on_pressure({
            let kept = Arc::clone(&kept);
            move || drop(kept.lock().unwrap().take())
        });
        let buffer = pool.acquire().await.unwrap();
        drop(guard);
        *kept.lock().unwrap() = Some(buffer);
        assert!(futures::poll!(std::pin::pin!(pool.acquire())).is_pending());
    }
}
