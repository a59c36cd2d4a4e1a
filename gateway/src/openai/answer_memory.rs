//! The memory of answers that do not stream: collected, or written and not sent yet.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use millm_kit::ServiceError;

/// Bytes of all answers together.
pub const MAX_HELD: usize = 512 << 20;
/// Bytes that each answer may have even when all together have too many.
pub const ALWAYS_HELD: usize = 1 << 20;

/// Counts the bytes of all answers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AnswerMemory(Arc<AtomicUsize>);

impl AnswerMemory {
    /// Returns the share of an answer that begins with so many bytes.
    pub fn share(&self, bytes: usize) -> Share {
        let mut share = Share { all: self.clone(), bytes: 0 };
        share.set(bytes);
        share
    }

    /// Returns the bytes of all answers.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One answer's share. Dropping it gives the bytes back.
#[derive(Debug)]
pub struct Share {
    all: AnswerMemory,
    bytes: usize,
}

impl Share {
    /// Returns the bytes of the answer.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets the bytes of the answer.
    pub fn set(&mut self, bytes: usize) {
        self.all.0.fetch_add(bytes, Ordering::Relaxed);
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }

    /// Sets the bytes of an answer that grows.
    ///
    /// # Errors
    ///
    /// QUEUE_FULL when the answer is not small and all together are too large.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ServiceError> {
        self.set(bytes);
        let all = self.all.bytes();
        if all > MAX_HELD && bytes > ALWAYS_HELD {
            return Err(ServiceError::too_many_large_responses(all, MAX_HELD));
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}
