//! How much memory a model was seen to take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::devices::Devices;

/// The most that the process used above what it used before. Measures until dropped.
pub struct Meter {
    rise: Arc<Rise>,
    _until: DropGuard,
}

struct Rise {
    devices: Arc<Devices>,
    before: u64,
    peak: AtomicU64,
}

impl Meter {
    /// Starts from what is used now: looks closely at first, then each second.
    pub fn start(devices: Arc<Devices>) -> Self {
        let rise = Arc::new(Rise { before: devices.own(), devices, peak: AtomicU64::new(0) });
        let until = CancellationToken::new();
        let guard = until.clone().drop_guard();
        let watched = Arc::clone(&rise);
        tokio::spawn(until.run_until_cancelled_owned(async move {
            let mut pause = Duration::from_millis(20);
            loop {
                watched.look();
                tokio::time::sleep(pause).await;
                pause = pause.mul_f32(1.1).min(Duration::from_secs(1));
            }
        }));
        Self { rise, _until: guard }
    }

    /// Looks once more.
    pub fn peak_bytes(&self) -> u64 {
        self.rise.look()
    }
}

impl Rise {
    fn look(&self) -> u64 {
        let now = self.devices.own().saturating_sub(self.before);
        self.peak.fetch_max(now, Ordering::Relaxed).max(now)
    }
}
