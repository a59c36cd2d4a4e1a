//! Detection of a connection that is much slower than the others. Connecting again usually reaches another edge of the
//! file server.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::limits::{CONNECTIONS, SLOW_FACTOR};

/// The last measured speeds of all connections, in bytes a second.
#[derive(Debug, Default)]
pub(crate) struct ConnectionSpeeds {
    recent: Mutex<VecDeque<u64>>,
}

impl ConnectionSpeeds {
    /// Adds a measurement, and returns whether most others were faster by [`SLOW_FACTOR`].
    pub(crate) fn is_slow(&self, speed: u64) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let faster = recent.iter().filter(|other| **other / SLOW_FACTOR > speed).count();
        recent.push_back(speed);
        if recent.len() > CONNECTIONS {
            recent.pop_front();
        }
        faster > CONNECTIONS / 2
    }
}

/// The bytes of one connection in the present window of time.
#[derive(Debug)]
pub(crate) struct SpeedWindow {
    since: Instant,
    length: Duration,
    bytes: u64,
}

impl SpeedWindow {
    /// Begins a window of this length.
    pub(crate) fn start(length: Duration) -> Self {
        Self { since: Instant::now(), length, bytes: 0 }
    }

    /// Adds received bytes. Returns the speed when the window is over; the next window begins then.
    pub(crate) fn add(&mut self, bytes: u64) -> Option<u64> {
        self.bytes += bytes;
        let elapsed = self.since.elapsed();
        if elapsed < self.length {
            return None;
        }
        let speed = self.speed(elapsed);
        *self = Self::start(self.length);
        Some(speed)
    }

    /// Returns the speed so far; `None` when the window is too short to tell.
    pub(crate) fn so_far(&self) -> Option<u64> {
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
    fn a_connection_much_slower_than_most_is_found() {
        let speeds = ConnectionSpeeds::default();
        assert!(!speeds.is_slow(1000), "there is nothing to compare with");
        for _ in 0..CONNECTIONS {
            assert!(!speeds.is_slow(5_000_000));
        }
        assert!(!speeds.is_slow(1_000_000));
        assert!(speeds.is_slow(1000));
        for _ in 0..CONNECTIONS {
            speeds.is_slow(1000);
        }
        assert!(!speeds.is_slow(1000), "now all are slow");
    }
}
