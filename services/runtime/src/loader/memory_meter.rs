//! Measures the memory of each model.
//!
//! The system counts memory for the whole process, or for the whole GPU. Each change of this count is attributed to the
//! model that loads or unloads, else to the model that was used last.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::requests::RequestCounter;
use crate::devices::Devices;

/// The meter of the process.
pub(crate) struct MemoryMeter {
    devices: Arc<Devices>,
    samples: Mutex<Samples>,
}

struct Samples {
    /// The used bytes at the last sample.
    last: u64,
    shares: Vec<Weak<Share>>,
}

struct Share {
    requests: RequestCounter,
    /// The model is loading or unloading.
    in_transition: AtomicBool,
    bytes: AtomicI64,
    peak: AtomicU64,
}

/// The peak memory of one model. Samples often at first, then every second, until it is dropped.
pub(crate) struct ModelMemory {
    meter: Arc<MemoryMeter>,
    share: Arc<Share>,
    _sampling: DropGuard,
}

impl MemoryMeter {
    /// Returns a meter of the device that models run on.
    pub fn new(devices: Arc<Devices>) -> Self {
        Self { devices, samples: Mutex::new(Samples { last: 0, shares: Vec::new() }) }
    }

    /// Starts to measure a model that begins to load.
    pub fn start(self: &Arc<Self>, requests: RequestCounter) -> ModelMemory {
        // Earlier changes belong to other models.
        self.sample();
        let share = Arc::new(Share {
            requests,
            in_transition: AtomicBool::new(true),
            bytes: AtomicI64::new(0),
            peak: AtomicU64::new(0),
        });
        self.samples.lock().shares.push(Arc::downgrade(&share));
        let stop = CancellationToken::new();
        let sampling = stop.clone().drop_guard();
        let meter = Arc::clone(self);
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut interval = Duration::from_millis(20);
            loop {
                meter.sample();
                tokio::time::sleep(interval).await;
                interval = interval.mul_f32(1.1).min(Duration::from_secs(1));
            }
        }));
        ModelMemory { meter: Arc::clone(self), share, _sampling: sampling }
    }

    /// Reads the used memory and attributes the change since the last sample.
    fn sample(&self) {
        let mut samples = self.samples.lock();
        let now = self.devices.used();
        let change = now as i64 - samples.last as i64;
        samples.last = now;
        samples.shares.retain(|share| share.strong_count() > 0);
        let shares = samples.shares.iter().filter_map(Weak::upgrade);
        let cause = shares.max_by_key(|share| {
            let activity = share.requests.activity();
            (share.in_transition.load(Ordering::Relaxed), activity.count > 0, activity.last_used)
        });
        if let Some(cause) = cause {
            cause.add(change);
        }
    }
}

impl Share {
    fn add(&self, change: i64) {
        let bytes = self.bytes.fetch_add(change, Ordering::Relaxed) + change;
        self.peak.fetch_max(bytes.max(0) as u64, Ordering::Relaxed);
    }
}

impl ModelMemory {
    /// Samples once more and returns the most bytes that the model was seen to use.
    pub fn peak_bytes(&self) -> u64 {
        self.meter.sample();
        self.share.peak.load(Ordering::Relaxed)
    }

    /// Says whether the model is loading or unloading, so that changes from now on are attributed to it.
    pub fn set_in_transition(&self, in_transition: bool) {
        self.meter.sample();
        self.share.in_transition.store(in_transition, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Large enough to stand out from the other allocations of the process.
    const BLOCK: usize = 64 << 20;

    #[tokio::test]
    async fn changes_are_attributed_to_the_model_that_loads_or_was_used_last() {
        let meter = Arc::new(MemoryMeter::new(Arc::new(Devices::open(millm_engine::Device::Cpu).unwrap())));
        let (first_requests, second_requests) = (RequestCounter::new(), RequestCounter::new());
        let first = meter.start(first_requests.clone());
        let one = vec![1u8; BLOCK];
        first.set_in_transition(false);
        let second = meter.start(second_requests);
        let two = vec![1u8; 2 * BLOCK];
        second.set_in_transition(false);
        drop(first_requests.begin());
        let three = vec![1u8; BLOCK];
        let (first, second) = (first.peak_bytes(), second.peak_bytes());
        let near = |bytes: u64, blocks: usize| bytes.abs_diff((blocks * BLOCK) as u64) < BLOCK as u64 / 2;
        assert!(near(first, 2) && near(second, 2), "{first} {second}");
        drop((one, two, three));
    }
}
