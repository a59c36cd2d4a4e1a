//! One rate for all bodies that share it: each piece reserves its time, as on a network line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time by which a line may catch up after it was idle or a timer was late.
const CATCH_UP: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(crate) struct Throttle {
    free_at: Mutex<Option<Instant>>,
}

impl Throttle {
    /// Returns an idle line.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Returns when a piece of `bytes` has passed a line of `rate` bytes a second.
    pub async fn pass(&self, bytes: u64, rate: u64) {
        tokio::time::sleep_until(self.book(bytes, rate)).await;
    }

    fn book(&self, bytes: u64, rate: u64) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = Instant::now().checked_sub(CATCH_UP).unwrap_or_else(Instant::now);
        let begin = free_at.map_or(earliest, |free_at| free_at.max(earliest));
        let end = begin + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        *free_at = Some(end);
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookings_add_up() {
        let throttle = Throttle::new();
        let first = throttle.book(1000, 1000);
        let second = throttle.book(500, 1000);
        assert_eq!(second - first, Duration::from_millis(500));
    }
}
