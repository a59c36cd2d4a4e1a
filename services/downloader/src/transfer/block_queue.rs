//! The blocks of a file that are still to be fetched, handed out to the connections in order.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::ledger::BlockChecksums;

/// The missing blocks of one file.
#[derive(Debug)]
pub(crate) struct BlockQueue {
    /// Blocks in one request.
    chunk: u64,
    rest: Mutex<Rest>,
    more: Notify,
}

#[derive(Debug)]
struct Rest {
    /// Ascending ranges that do not touch.
    missing: VecDeque<Range<u64>>,
    /// Held until all blocks are handed out; then the next file may begin.
    turn: Option<OwnedSemaphorePermit>,
}

impl BlockQueue {
    /// Queues the blocks that have no checksum.
    pub(crate) fn new(checksums: &BlockChecksums, chunk: u64, turn: Option<OwnedSemaphorePermit>) -> Self {
        let mut missing: VecDeque<Range<u64>> = VecDeque::new();
        for (block, _) in (0..).zip(checksums).filter(|(_, checksum)| checksum.is_none()) {
            match missing.back_mut() {
                Some(run) if run.end == block => run.end += 1,
                _ => missing.push_back(block..block + 1),
            }
        }
        let turn = turn.filter(|_| !missing.is_empty());
        Self { chunk, rest: Mutex::new(Rest { missing, turn }), more: Notify::new() }
    }

    /// Returns the number of requests that can run at once.
    pub(crate) fn chunks(&self) -> usize {
        let rest = self.locked();
        rest.missing.iter().map(|run| (run.end - run.start).div_ceil(self.chunk) as usize).sum()
    }

    /// Returns the next range of blocks, at most a chunk. Waits while there is none: a kept block may turn out to be
    /// damaged.
    pub(crate) async fn next(&self) -> Range<u64> {
        loop {
            let more = self.more.notified();
            if let Some(run) = self.take() {
                return run;
            }
            more.await;
        }
    }

    fn take(&self) -> Option<Range<u64>> {
        let mut rest = self.locked();
        let first = rest.missing.front_mut()?;
        let start = first.start;
        let end = first.end.min((start / self.chunk + 1).saturating_mul(self.chunk));
        first.start = end;
        if first.is_empty() {
            rest.missing.pop_front();
        }
        if rest.missing.is_empty() {
            rest.turn = None;
        }
        Some(start..end)
    }

    /// Queues a block again.
    pub(crate) fn requeue(&self, block: u64) {
        let mut rest = self.locked();
        let at = rest.missing.partition_point(|run| run.start < block);
        rest.missing.insert(at, block..block + 1);
        drop(rest);
        self.more.notify_one();
    }

    fn locked(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kept: &[u64], blocks: u64, chunk: u64, expected: &[(u64, u64)]) {
        let checksums: BlockChecksums = (0..blocks).map(|block| kept.contains(&block).then_some(0)).collect();
        let queue = BlockQueue::new(&checksums, chunk, None);
        assert!(queue.chunks() <= expected.len());
        let runs: Vec<_> = std::iter::from_fn(|| queue.take()).map(|run| (run.start, run.end)).collect();
        assert_eq!(runs, expected, "{kept:?} of {blocks}");
    }

    #[test]
    fn missing_blocks_are_handed_out_in_order() {
        check(&[], 0, 4, &[]);
        check(&[], 10, 4, &[(0, 4), (4, 8), (8, 10)]);
        check(&[0, 1, 2, 3, 5], 10, 4, &[(4, 5), (6, 8), (8, 10)]);
        check(&[0], 10, u64::MAX, &[(1, 10)]);
        check(&[0, 1, 2], 3, 4, &[]);
    }

    #[tokio::test]
    async fn a_requeued_block_is_handed_out_again() {
        let queue = BlockQueue::new(&vec![None; 2], 1, None);
        assert_eq!(queue.next().await, 0..1);
        queue.requeue(0);
        assert_eq!((queue.next().await, queue.next().await), (0..1, 1..2));
        let waiting = queue.next();
        let mut waiting = std::pin::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        queue.requeue(1);
        assert_eq!(waiting.await, 1..2);
    }
}
