//! What is in memory: one entry per model that is loading, loaded, unloading, or failed to load.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use millm_engine::Engine;
use millm_proto::runtime::v1::{LoadProgress, LoadState, MemoryEstimate};
use tokio::sync::watch;

use super::{admission::Seat, scale::Meter, unload::Departure};
use crate::language::Language;

/// By model id.
pub type Models = BTreeMap<i64, Entry>;

#[derive(Clone)]
pub struct Entry {
    pub handle: String,
    pub phase: Phase,
}

#[derive(Clone)]
pub enum Phase {
    /// With the requests that wait for it already.
    Loading(watch::Receiver<LoadProgress>, Requests),
    Loaded(Arc<Resident>),
    Unloading(Arc<Resident>, Departure),
    /// Stays to be seen until the next load begins.
    Failed(Box<LoadProgress>),
}

impl Entry {
    pub fn resident(&self) -> Option<&Arc<Resident>> {
        match &self.phase {
            Phase::Loaded(resident) | Phase::Unloading(resident, _) => Some(resident),
            Phase::Loading(..) | Phase::Failed(_) => None,
        }
    }

    pub fn state(&self) -> LoadState {
        match &self.phase {
            Phase::Loading(..) => LoadState::Loading,
            Phase::Loaded(_) => LoadState::Loaded,
            Phase::Unloading(..) => LoadState::Unloading,
            Phase::Failed(_) => LoadState::Failed,
        }
    }
}

/// What admission decides from.
pub fn seats(models: &Models) -> Vec<Seat> {
    let seat = |(id, entry): (&i64, &Entry)| {
        let resident = entry.resident();
        Seat {
            id: *id,
            handle: entry.handle.clone(),
            state: entry.state(),
            bytes: resident.map_or(0, |resident| resident.held_bytes()),
            promised: resident.map_or(0, |resident| resident.promised_bytes()),
            in_use: resident.is_some_and(|resident| resident.requests.now().count > 0),
            last_used: resident.map_or(SystemTime::UNIX_EPOCH, |resident| resident.last_used()),
        }
    };
    models.iter().map(seat).collect()
}

/// A model in memory, with all that a request needs of it.
pub struct Resident {
    pub id: i64,
    pub handle: String,
    pub engine: Engine,
    pub language: Arc<Language>,
    pub context_length: u32,
    pub slots: u32,
    /// Tokens guessed ahead unless a request says otherwise.
    pub speculate: u32,
    pub estimate: MemoryEstimate,
    pub load_time: SystemTime,
    pub meter: Meter,
    /// Requests that have found it: on their way to the engine, waiting or running there.
    pub requests: Requests,
}

impl Resident {
    /// Counts as used when it is loaded.
    pub fn last_used(&self) -> SystemTime {
        self.requests.now().last_used.unwrap_or(self.load_time)
    }

    /// What unloading it gives back.
    pub fn held_bytes(&self) -> u64 {
        match self.meter.peak_bytes() {
            0 => self.estimate.total_bytes as u64,
            peak => peak,
        }
    }

    /// What it may still take: a cache is taken from the system only as it fills.
    pub fn promised_bytes(&self) -> u64 {
        (self.estimate.total_bytes as u64).saturating_sub(self.held_bytes())
    }
}

/// Counts the requests of one model, so that unloading can wait for them.
#[derive(Clone)]
pub struct Requests(watch::Sender<Active>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Active {
    pub count: usize,
    /// When the last one came or went.
    pub last_used: Option<SystemTime>,
}

impl Requests {
    pub fn new() -> Self {
        Self(watch::Sender::new(Active { count: 0, last_used: None }))
    }

    /// Counts until dropped.
    pub fn begin(&self) -> Turn {
        self.0.send_modify(|active| {
            active.count += 1;
            active.last_used = Some(SystemTime::now());
        });
        Turn(self.0.clone())
    }

    pub fn now(&self) -> Active {
        *self.0.borrow()
    }

    /// Each change; closed when model and requests are gone.
    pub fn watch(&self) -> watch::Receiver<Active> {
        self.0.subscribe()
    }

    /// Tells each change of the count to `tell`, until none is left.
    pub async fn drained(&self, mut tell: impl FnMut(usize)) {
        let mut counts = self.0.subscribe();
        loop {
            let count = counts.borrow_and_update().count;
            tell(count);
            if count == 0 || counts.changed().await.is_err() {
                return;
            }
        }
    }
}

/// One request's place in the count.
pub struct Turn(watch::Sender<Active>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.send_modify(|active| {
            active.count -= 1;
            active.last_used = Some(SystemTime::now());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_waits_for_each_request() {
        let requests = Requests::new();
        let (one, two) = (requests.begin(), requests.begin());
        let mut seen = Vec::new();
        let mut waiting = Box::pin(requests.drained(|count| seen.push(count)));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(one);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(two);
        waiting.await;
        assert_eq!(seen, [2, 1, 0]);
        assert!(requests.now().last_used.is_some());
    }
}
