//! The estimated start of a waiting download, from what is left of the downloads before it and the last measured speed.

use std::{cell::Cell, time::Duration};

use millm_proto::downloader::v1::{Download, download::State};

/// Below this fraction the elapsed time tells nothing about the rest.
const LEAST_FRACTION: f64 = 0.02;

/// The speed of the last transfer that was seen, in bytes a second.
#[derive(Debug, Default)]
pub(crate) struct LastSpeed(Cell<f64>);

impl LastSpeed {
    /// Returns the time that a running download still needs; `None` while it is unknown. `elapsed` is its time so far.
    pub(crate) fn seconds_left(&self, running: &Download, elapsed: Duration) -> Option<Duration> {
        let speed = running.speed_bytes_per_second as f64;
        if speed > 0.0 {
            self.0.set(speed);
        }
        if running.state() == State::Downloading && running.seconds_left > 0 {
            return Some(Duration::from_secs(running.seconds_left as u64));
        }
        let done = running.fraction;
        (LEAST_FRACTION..=1.0).contains(&done).then(|| elapsed.mul_f64((1.0 - done) / done))
    }

    /// Returns the time that a waiting download will need; `None` while it is unknown.
    pub(crate) fn seconds_for(&self, waiting: &Download) -> Option<Duration> {
        let (bytes, speed) = (waiting.total_bytes as f64, self.0.get());
        (bytes > 0.0 && speed > 0.0).then(|| Duration::try_from_secs_f64(bytes / speed).ok()).flatten()
    }
}

/// Returns the time until each waiting download begins. In their order, each takes the slot that is free first. `None`
/// is unknown, and a start after an unknown end is unknown, too.
pub(crate) fn waits(
    running: Vec<Option<Duration>>,
    waiting: &[Option<Duration>],
    slots: usize,
) -> Vec<Option<Duration>> {
    let mut free_in = running;
    free_in.resize(free_in.len().max(slots).max(1), Some(Duration::ZERO));
    let mut take = |needed: &Option<Duration>| {
        let slot = free_in.iter_mut().min_by_key(|free| free.unwrap_or(Duration::MAX))?;
        let start = *slot;
        *slot = start.zip(*needed).and_then(|(start, needed)| start.checked_add(needed));
        start
    };
    waiting.iter().map(&mut take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_the_slot_that_is_free_first() {
        let check = |running: &[Option<u64>], waiting: &[Option<u64>], slots, expected: &[Option<u64>]| {
            let seconds =
                |list: &[Option<u64>]| list.iter().map(|s| s.map(Duration::from_secs)).collect::<Vec<_>>();
            assert_eq!(waits(seconds(running), &seconds(waiting), slots), seconds(expected));
        };
        check(&[Some(5)], &[Some(10), Some(1), None], 1, &[Some(5), Some(15), Some(16)]);
        check(&[Some(5), Some(2)], &[Some(10), Some(1)], 2, &[Some(2), Some(5)]);
        check(&[Some(5)], &[None, Some(1)], 1, &[Some(5), None]);
        check(&[None], &[Some(1)], 1, &[None]);
        check(&[None, Some(3)], &[Some(1), Some(1)], 2, &[Some(3), Some(4)]);
        check(&[], &[Some(1), Some(1)], 1, &[Some(0), Some(1)]);
    }

    #[test]
    fn the_speed_is_that_of_the_last_transfer() {
        let speed = LastSpeed::default();
        let mut running = Download { total_bytes: 1000, ..Download::default() };
        running.set_state(State::Downloading);
        assert_eq!(speed.seconds_for(&running), None);
        assert_eq!(speed.seconds_left(&running, Duration::from_secs(1)), None);
        (running.speed_bytes_per_second, running.seconds_left) = (100, 7);
        assert_eq!(speed.seconds_left(&running, Duration::from_secs(1)), Some(Duration::from_secs(7)));
        assert_eq!(speed.seconds_for(&running), Some(Duration::from_secs(10)));
        running.set_state(State::Quantizing);
        (running.speed_bytes_per_second, running.fraction) = (0, 0.8);
        assert_eq!(speed.seconds_left(&running, Duration::from_secs(8)), Some(Duration::from_secs(2)));
        assert_eq!(speed.seconds_for(&running), Some(Duration::from_secs(10)));
    }
}
