//! The blocking threads of a transfer. Writers write received blocks and note them in the ledger. The verifier hashes
//! the file in order: from memory where it can, and from the disk where an earlier run kept a block or the memory was
//! needed.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, Sender},
    },
};

use super::{
    block_queue::BlockQueue,
    buffer_pool::{Buffer, BufferPool},
    ledger::BlockChecksums,
    partial::Partial,
};
use crate::{hub::digest::Digest, limits::BLOCK_BYTES, progress::FileMeter};

/// A block that is complete in memory.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedBlock {
    pub(crate) index: u64,
    pub(crate) buffer: Arc<Buffer>,
}

/// A message to the verifier from connections, writers and the buffer pool.
#[derive(Debug)]
pub(crate) enum VerifierEvent {
    Received(ReceivedBlock),
    Written {
        index: u64,
        crc: u32,
    },
    /// No buffer is free.
    MemoryPressure,
}

/// Stops the verifier when it is dropped. Received blocks are still written.
#[derive(Debug, Default)]
pub(crate) struct StopGuard(Arc<AtomicBool>);

impl StopGuard {
    /// Returns the flag that is set at the drop.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// One writing thread. It ends when all connections have ended.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) partial: Arc<Partial>,
    pub(crate) received: Arc<Mutex<Receiver<ReceivedBlock>>>,
    pub(crate) events: Sender<VerifierEvent>,
}

impl Writer {
    /// Writes blocks until the last sender is dropped. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn run(self) -> io::Result<()> {
        loop {
            let next = self.received.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(ReceivedBlock { index, buffer }) = next else { return Ok(()) };
            let crc = self.partial.write(index, &buffer)?;
            drop(buffer);
            // The verifier may have ended already: it needs only the received blocks.
            let _ = self.events.send(VerifierEvent::Written { index, crc });
        }
    }
}

/// The hashing thread.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) partial: Arc<Partial>,
    pub(crate) checksums: BlockChecksums,
    pub(crate) queue: Arc<BlockQueue>,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) meter: Arc<FileMeter>,
    pub(crate) events: Receiver<VerifierEvent>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Verifier {
    /// Returns the digest of the whole file, or `None` when it was stopped. Blocks the thread. The digest may be known
    /// before the last block is written.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn run(mut self) -> io::Result<Option<Digest>> {
        let (expected, blocks) = (&self.partial.expected, self.partial.expected.blocks());
        let mut hasher = expected.digest.hasher(expected.size);
        // Blocks that came before their turn.
        let mut early: BTreeMap<u64, Arc<Buffer>> = BTreeMap::new();
        let mut buffer = Vec::new();
        let mut next = 0;
        while next < blocks {
            // Events that wait here hold buffers that the connections need.
            while let Ok(event) = self.events.try_recv() {
                self.handle(event, &mut early);
            }
            if self.stop.load(Relaxed) {
                return Ok(None);
            }
            if let Some(buffer) = early.remove(&next) {
                hasher.update(buffer.bytes());
                next += 1;
            } else if let Some(crc) = self.checksums[next as usize] {
                buffer.resize(BLOCK_BYTES as usize, 0);
                match self.partial.read(next, crc, &mut buffer)? {
                    Some(bytes) => {
                        hasher.update(bytes);
                        next += 1;
                    }
                    None => self.fetch_again(next),
                }
            } else {
                self.release_buffers(&mut early);
                let Ok(event) = self.events.recv() else { return Ok(None) };
                self.handle(event, &mut early);
            }
        }
        Ok(Some(hasher.finish()))
    }

    fn handle(&mut self, event: VerifierEvent, early: &mut BTreeMap<u64, Arc<Buffer>>) {
        match event {
            VerifierEvent::Received(ReceivedBlock { index, buffer }) => {
                early.insert(index, buffer);
            }
            VerifierEvent::Written { index, crc } => self.checksums[index as usize] = Some(crc),
            // `run` releases buffers before it waits again.
            VerifierEvent::MemoryPressure => {}
        }
    }

    /// Releases written blocks while buffers are low and the next block is still to come. The blocks that would wait
    /// longest go first; they are read back from the disk in their turn.
    fn release_buffers(&self, early: &mut BTreeMap<u64, Arc<Buffer>>) {
        while self.pool.is_low() {
            let is_written = |(index, _): &(&u64, _)| self.checksums[**index as usize].is_some();
            let Some(last) = early.iter().rev().find(is_written).map(|(index, _)| *index) else { return };
            early.remove(&last);
        }
    }

    /// Queues a block again: its bytes on the disk do not match the ledger.
    fn fetch_again(&mut self, block: u64) {
        tracing::warn!(block, "a kept block is damaged, fetching it again");
        self.checksums[block as usize] = None;
        self.meter.lost(self.partial.length_of(block) as u64);
        self.queue.requeue(block);
    }
}
