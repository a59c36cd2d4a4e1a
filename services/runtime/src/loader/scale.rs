//! How much memory each model was seen to take. The process has one count; its changes are put down to the model
//! that loads or unloads, or else to the one used last.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::entry::Requests;
use crate::devices::Devices;

/// One for the process.
pub struct Scale {
    devices: Arc<Devices>,
    shares: Mutex<Shares>,
}

struct Shares {
    /// The process's own memory when it was looked at last.
    last: u64,
    held: Vec<Weak<Share>>,
}

struct Share {
    requests: Requests,
    /// Loading or unloading.
    moving: AtomicBool,
    bytes: AtomicI64,
    peak: AtomicU64,
}

/// The most that one model was seen to hold. Looks closely at first, then each second, until dropped.
pub struct Meter {
    scale: Arc<Scale>,
    share: Arc<Share>,
    _until: DropGuard,
}

impl Scale {
    pub fn new(devices: Arc<Devices>) -> Self {
        Self { devices, shares: Mutex::new(Shares { last: 0, held: Vec::new() }) }
    }

    /// For a model that begins to load.
    pub fn meter(self: &Arc<Self>, requests: Requests) -> Meter {
        // What happened until now is nobody's, or somebody else's.
        self.weigh();
        let share = Arc::new(Share {
            requests,
            moving: AtomicBool::new(true),
            bytes: AtomicI64::new(0),
            peak: AtomicU64::new(0),
        });
        self.shares().held.push(Arc::downgrade(&share));
        let until = CancellationToken::new();
        let guard = until.clone().drop_guard();
        let scale = Arc::clone(self);
        tokio::spawn(until.run_until_cancelled_owned(async move {
            let mut pause = Duration::from_millis(20);
            loop {
                scale.weigh();
                tokio::time::sleep(pause).await;
                pause = pause.mul_f32(1.1).min(Duration::from_secs(1));
            }
        }));
        Meter { scale: Arc::clone(self), share, _until: guard }
    }

    fn shares(&self) -> std::sync::MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn weigh(&self) {
        let mut shares = self.shares();
        let now = self.devices.own();
        let change = now as i64 - shares.last as i64;
        shares.last = now;
        shares.held.retain(|share| share.strong_count() > 0);
        let held = shares.held.iter().filter_map(Weak::upgrade);
        let mover = held.max_by_key(|share| {
            let active = share.requests.now();
            (share.moving.load(Ordering::Relaxed), active.count > 0, active.last_used)
        });
        if let Some(mover) = mover {
            mover.add(change);
        }
    }
}

impl Share {
    fn add(&self, change: i64) {
        let bytes = self.bytes.fetch_add(change, Ordering::Relaxed) + change;
        self.peak.fetch_max(bytes.max(0) as u64, Ordering::Relaxed);
    }
}

impl Meter {
    /// Looks once more.
    pub fn peak_bytes(&self) -> u64 {
        self.scale.weigh();
        self.share.peak.load(Ordering::Relaxed)
    }

    /// Whether the model is loading or unloading, so that what changes now is its doing.
    pub fn moving(&self, moving: bool) {
        self.scale.weigh();
        self.share.moving.store(moving, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough to be seen among what else happens in the process.
    const BLOCK: usize = 64 << 20;

    #[tokio::test]
    async fn what_changes_is_put_down_to_who_moves_or_was_used_last() {
        let scale = Arc::new(Scale::new(Arc::new(Devices::new())));
        let (first_requests, second_requests) = (Requests::new(), Requests::new());
        let first = scale.meter(first_requests.clone());
        let one = vec![1u8; BLOCK];
        first.moving(false);
        let second = scale.meter(second_requests);
        let two = vec![1u8; 2 * BLOCK];
        second.moving(false);
        drop(first_requests.begin());
        let three = vec![1u8; BLOCK];
        let (first, second) = (first.peak_bytes(), second.peak_bytes());
        let near = |bytes: u64, blocks: usize| bytes.abs_diff((blocks * BLOCK) as u64) < BLOCK as u64 / 2;
        assert!(near(first, 2) && near(second, 2), "{first} {second}");
        drop((one, two, three));
    }
}
