//! The threads of a transfer that may block: those that write what arrived and note it, and the one that hashes the
//! file in its order: from memory where it can, from the disk where a block was kept by an earlier run or had to
//! make room.

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
    blocks::{Block, Pool},
    ledger::Marks,
    partial::Partial,
    work::Work,
};
use crate::{digest::Digest, policy::BLOCK_BYTES, progress::FileMeter};

/// A block that is complete in memory.
#[derive(Debug)]
pub struct Arrived {
    pub index: u64,
    pub block: Block,
}

/// And now on the disk.
#[derive(Debug)]
pub struct Written {
    index: u64,
    crc: u32,
    block: Block,
}

/// Set when a transfer is given up: what has arrived is still written, but nothing is hashed any more.
#[derive(Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// One of those that write, until all who could send have left.
#[derive(Debug, Clone)]
pub struct Writer {
    pub partial: Arc<Partial>,
    pub arrived: Arc<Mutex<Receiver<Arrived>>>,
    pub written: Sender<Written>,
}

impl Writer {
    pub fn run(self) -> io::Result<()> {
        loop {
            let next = self.arrived.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Arrived { index, block }) = next else { return Ok(()) };
            let crc = self.partial.write(index, &block)?;
            // The hasher leaves first only when the transfer is given up.
            let _ = self.written.send(Written { index, crc, block });
        }
    }
}

/// The one that hashes.
#[derive(Debug)]
pub struct Verifier {
    pub partial: Arc<Partial>,
    pub marks: Marks,
    pub work: Arc<Work>,
    pub pool: Arc<Pool>,
    pub meter: Arc<FileMeter>,
    pub written: Receiver<Written>,
    pub stop: Arc<AtomicBool>,
}

impl Verifier {
    /// The whole file's digest; `None` when not all of it came.
    pub fn run(mut self) -> io::Result<Option<Digest>> {
        let wanted = &self.partial.wanted;
        let mut hasher = wanted.digest.hasher(wanted.size);
        // Blocks that are there before their turn.
        let mut early: BTreeMap<u64, Block> = BTreeMap::new();
        let mut buffer = Vec::new();
        let mut next = 0;
        while next < self.partial.wanted.blocks() {
            // Without delay, lest what waits here keeps memory that those who fetch need.
            while let Ok(written) = self.written.try_recv() {
                self.take(written, next, &mut early);
            }
            if self.stop.load(Relaxed) {
                return Ok(None);
            }
            if let Some(block) = early.remove(&next) {
                hasher.update(block.bytes());
                next += 1;
            } else if let Some(crc) = self.marks[next as usize] {
                buffer.resize(BLOCK_BYTES as usize, 0);
                match self.partial.read(next, crc, &mut buffer)? {
                    Some(bytes) => {
                        hasher.update(bytes);
                        next += 1;
                    }
                    None => self.lose(next),
                }
            } else {
                let Ok(written) = self.written.recv() else { return Ok(None) };
                self.take(written, next, &mut early);
            }
        }
        Ok(Some(hasher.finish()))
    }

    fn take(&mut self, Written { index, crc, block }: Written, next: u64, early: &mut BTreeMap<u64, Block>) {
        self.marks[index as usize] = Some(crc);
        // What is given up here is read back when its turn comes.
        if index == next || !self.pool.is_tight() {
            early.insert(index, block);
        }
    }

    /// The disk does not have what the ledger says.
    fn lose(&mut self, block: u64) {
        tracing::warn!(block, "a kept block is damaged, fetching it again");
        self.marks[block as usize] = None;
        self.meter.lost(self.partial.length_of(block) as u64);
        self.work.put_back(block);
    }
}
