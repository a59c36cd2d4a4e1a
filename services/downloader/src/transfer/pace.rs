//! How fast the connections of a download are, to find the one that crawls while the others fly: a bad edge of a
//! file server is left for another by connecting again.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::policy::{CONNECTIONS, LEFT_BEHIND};

/// Bytes a second, of the last few measurements of all connections.
#[derive(Debug, Default)]
pub struct Pace {
    recent: Mutex<VecDeque<u64>>,
}

impl Pace {
    /// Enters a measurement; true when most others were faster by a factor of `LEFT_BEHIND`.
    pub fn is_left_behind(&self, speed: u64) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let faster = recent.iter().filter(|other| **other / LEFT_BEHIND > speed).count();
        recent.push_back(speed);
        if recent.len() > CONNECTIONS {
            recent.pop_front();
        }
        faster > CONNECTIONS / 2
    }
}

/// One connection's bytes over one span of time.
#[derive(Debug)]
pub struct Lap {
    since: Instant,
    length: Duration,
    bytes: u64,
}

impl Lap {
    pub fn start(length: Duration) -> Self {
        Self { since: Instant::now(), length, bytes: 0 }
    }

    /// The speed when the lap is over; the next one begins.
    pub fn add(&mut self, bytes: u64) -> Option<u64> {
        self.bytes += bytes;
        let elapsed = self.since.elapsed();
        if elapsed < self.length {
            return None;
        }
        let speed = self.speed(elapsed);
        *self = Self::start(self.length);
        Some(speed)
    }

    /// So far; `None` when that says nothing yet.
    pub fn so_far(&self) -> Option<u64> {
        let elapsed = self.since.elapsed();
        (elapsed >= Duration::from_millis(50)).then(|| self.speed(elapsed))
    }

    fn speed(&self, elapsed: Duration) -> u64 {
        (self.bytes as f64 / elapsed.as_secs_f64().max(1e-3)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_crawls_while_most_fly_is_told() {
        let pace = Pace::default();
        assert!(!pace.is_left_behind(1000), "alone there is nothing to compare with");
        for _ in 0..CONNECTIONS {
            assert!(!pace.is_left_behind(5_000_000));
        }
        assert!(!pace.is_left_behind(1_000_000));
        assert!(pace.is_left_behind(1000));
        for _ in 0..CONNECTIONS {
            pace.is_left_behind(1000);
        }
        assert!(!pace.is_left_behind(1000), "now all are slow");
    }
}
