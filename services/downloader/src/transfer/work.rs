//! Which blocks of a file have still to be fetched, handed out in their order to whoever asks.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::ledger::Marks;

#[derive(Debug)]
pub struct Work {
    /// Blocks that are asked for at once.
    chunk: u64,
    rest: Mutex<Rest>,
    more: Notify,
}

#[derive(Debug)]
struct Rest {
    /// In ascending order, apart.
    missing: VecDeque<Range<u64>>,
    /// Held until all is handed out: then the next file may begin.
    turn: Option<OwnedSemaphorePermit>,
}

impl Work {
    /// For what `marks` lack.
    pub fn new(marks: &Marks, chunk: u64, turn: Option<OwnedSemaphorePermit>) -> Self {
        let mut missing: VecDeque<Range<u64>> = VecDeque::new();
        for (block, _) in (0..).zip(marks).filter(|(_, mark)| mark.is_none()) {
            match missing.back_mut() {
                Some(run) if run.end == block => run.end += 1,
                _ => missing.push_back(block..block + 1),
            }
        }
        let turn = turn.filter(|_| !missing.is_empty());
        Self { chunk, rest: Mutex::new(Rest { missing, turn }), more: Notify::new() }
    }

    /// How many can be at it at once.
    pub fn chunks(&self) -> usize {
        let rest = self.locked();
        rest.missing.iter().map(|run| (run.end - run.start).div_ceil(self.chunk) as usize).sum()
    }

    /// The next run, at most a chunk. Waits while there is none: a block may turn out to be damaged.
    pub async fn next(&self) -> Range<u64> {
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

    /// This one is needed again.
    pub fn put_back(&self, block: u64) {
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
        let marks: Marks = (0..blocks).map(|block| kept.contains(&block).then_some(0)).collect();
        let work = Work::new(&marks, chunk, None);
        assert!(work.chunks() <= expected.len());
        let runs: Vec<_> = std::iter::from_fn(|| work.take()).map(|run| (run.start, run.end)).collect();
        assert_eq!(runs, expected, "{kept:?} of {blocks}");
    }

    #[test]
    fn what_is_missing_is_handed_out_in_order() {
        check(&[], 0, 4, &[]);
        check(&[], 10, 4, &[(0, 4), (4, 8), (8, 10)]);
        check(&[0, 1, 2, 3, 5], 10, 4, &[(4, 5), (6, 8), (8, 10)]);
        check(&[0], 10, u64::MAX, &[(1, 10)]);
        check(&[0, 1, 2], 3, 4, &[]);
    }

    #[tokio::test]
    async fn a_damaged_block_comes_back() {
        let work = Work::new(&vec![None; 2], 1, None);
        assert_eq!(work.next().await, 0..1);
        work.put_back(0);
        assert_eq!((work.next().await, work.next().await), (0..1, 1..2));
        let waiting = work.next();
        let mut waiting = std::pin::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        work.put_back(1);
        assert_eq!(waiting.await, 1..2);
    }
}
