//! The threads of a transfer that may block: those that write what arrived and note it, and beside them the one that
//! hashes the file in its order: from memory where it can, from the disk where a block was kept by an earlier run or
//! had to make room.

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
#[derive(Debug, Clone)]
pub struct Arrived {
    pub index: u64,
    pub block: Arc<Block>,
}

/// What the hasher is told, by those who fetch and by those who write.
#[derive(Debug)]
pub enum News {
    Arrived(Arrived),
    Written {
        index: u64,
        crc: u32,
    },
    /// Somebody waits for memory.
    Short,
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
    pub news: Sender<News>,
}

impl Writer {
    pub fn run(self) -> io::Result<()> {
        loop {
            let next = self.arrived.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Arrived { index, block }) = next else { return Ok(()) };
            let crc = self.partial.write(index, &block)?;
            drop(block);
            // The hasher may have left: it needs only what arrived.
            let _ = self.news.send(News::Written { index, crc });
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
    pub news: Receiver<News>,
    pub stop: Arc<AtomicBool>,
}

impl Verifier {
    /// The whole file's digest; `None` when not all of it came. It may be known before all is written.
    pub fn run(mut self) -> io::Result<Option<Digest>> {
        let (wanted, blocks) = (&self.partial.wanted, self.partial.wanted.blocks());
        let mut hasher = wanted.digest.hasher(wanted.size);
        // In memory, before their turn.
        let mut early: BTreeMap<u64, Arc<Block>> = BTreeMap::new();
        let mut buffer = Vec::new();
        let mut next = 0;
        while next < blocks {
            // Without delay, lest what waits here keeps memory that those who fetch need.
            while let Ok(news) = self.news.try_recv() {
                self.hear(news, &mut early);
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
                self.make_room(&mut early);
                let Ok(news) = self.news.recv() else { return Ok(None) };
                self.hear(news, &mut early);
            }
        }
        Ok(Some(hasher.finish()))
    }

    fn hear(&mut self, news: News, early: &mut BTreeMap<u64, Arc<Block>>) {
        match news {
            News::Arrived(Arrived { index, block }) => {
                early.insert(index, block);
            }
            News::Written { index, crc } => self.marks[index as usize] = Some(crc),
            // Every piece of news is a reason to look whether there is room.
            News::Short => {}
        }
    }

    /// The next block is still to come, and memory is short: those that would wait longest are read back instead.
    fn make_room(&self, early: &mut BTreeMap<u64, Arc<Block>>) {
        while self.pool.is_tight() {
            let written = |(index, _): &(&u64, _)| self.marks[**index as usize].is_some();
            let Some(last) = early.iter().rev().find(written).map(|(index, _)| *index) else { return };
            early.remove(&last);
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
