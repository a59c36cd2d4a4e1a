//! When a waiting download will begin: by what is left of those before it, at the pace seen last.

use std::{cell::Cell, time::Duration};

use millm_proto::downloader::v1::{Download, download::State};

/// Below this share nothing can be told from how long it took.
const LEAST_FRACTION: f64 = 0.02;

/// Bytes a second, as the last transfer that was seen had them.
#[derive(Debug, Default)]
pub struct Pace(Cell<f64>);

impl Pace {
    /// What a running download still needs; it has taken `elapsed` so far.
    pub fn seconds_left(&self, running: &Download, elapsed: Duration) -> Option<Duration> {
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

    /// What a waiting one will need.
    pub fn seconds_for(&self, waiting: &Download) -> Option<Duration> {
        let (bytes, speed) = (waiting.total_bytes as f64, self.0.get());
        (bytes > 0.0 && speed > 0.0).then(|| Duration::try_from_secs_f64(bytes / speed).ok()).flatten()
    }
}

/// How long each of those who wait will wait: they take the place that is free first, in their order. `None` is
/// unknown, and what comes after the unknown is unknown too.
pub fn starts(
    running: Vec<Option<Duration>>,
    waiting: &[Option<Duration>],
    slots: usize,
) -> Vec<Option<Duration>> {
    let mut free_in = running;
    free_in.resize(free_in.len().max(slots).max(1), Some(Duration::ZERO));
    let mut take = |needed: &Option<Duration>| {
        let place = free_in.iter_mut().min_by_key(|free| free.unwrap_or(Duration::MAX))?;
        let start = *place;
        *place = start.zip(*needed).and_then(|(start, needed)| start.checked_add(needed));
        start
    };
    waiting.iter().map(&mut take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_the_place_that_is_free_first() {
        let check = |running: &[Option<u64>], waiting: &[Option<u64>], slots, expected: &[Option<u64>]| {
            let seconds =
                |list: &[Option<u64>]| list.iter().map(|s| s.map(Duration::from_secs)).collect::<Vec<_>>();
            assert_eq!(starts(seconds(running), &seconds(waiting), slots), seconds(expected));
        };
        check(&[Some(5)], &[Some(10), Some(1), None], 1, &[Some(5), Some(15), Some(16)]);
        check(&[Some(5), Some(2)], &[Some(10), Some(1)], 2, &[Some(2), Some(5)]);
        check(&[Some(5)], &[None, Some(1)], 1, &[Some(5), None]);
        check(&[None], &[Some(1)], 1, &[None]);
        check(&[None, Some(3)], &[Some(1), Some(1)], 2, &[Some(3), Some(4)]);
        check(&[], &[Some(1), Some(1)], 1, &[Some(0), Some(1)]);
    }

    #[test]
    fn the_pace_is_that_of_the_last_transfer() {
        let pace = Pace::default();
        let mut running = Download { total_bytes: 1000, ..Download::default() };
        running.set_state(State::Downloading);
        assert_eq!(pace.seconds_for(&running), None);
        assert_eq!(pace.seconds_left(&running, Duration::from_secs(1)), None);
        (running.speed_bytes_per_second, running.seconds_left) = (100, 7);
        assert_eq!(pace.seconds_left(&running, Duration::from_secs(1)), Some(Duration::from_secs(7)));
        assert_eq!(pace.seconds_for(&running), Some(Duration::from_secs(10)));
        running.set_state(State::Quantizing);
        (running.speed_bytes_per_second, running.fraction) = (0, 0.8);
        assert_eq!(pace.seconds_left(&running, Duration::from_secs(8)), Some(Duration::from_secs(2)));
        assert_eq!(pace.seconds_for(&running), Some(Duration::from_secs(10)));
    }
}
