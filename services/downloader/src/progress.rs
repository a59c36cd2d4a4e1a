//! The snapshot of one download, and its only writer. Transfers count bytes in meters; the writer adds them to the
//! snapshot. Bytes and fractions of a snapshot never decrease.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::Model,
    downloader::v1::{Download, FileProgress, download::State},
};
use prost_types::Timestamp;
use tokio::sync::watch;

/// The time between two updates of the snapshot during a transfer.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// The time constant of the smoothed speed.
const SMOOTHING: Duration = Duration::from_secs(3);

/// The counters of one file's transfer. The transfer writes them, and the [`Reporter`] reads them.
#[derive(Debug, Default)]
pub(crate) struct FileMeter {
    /// Bytes on the disk or on the way there. It falls when a file starts again.
    present: AtomicU64,
    /// Bytes that came over the network.
    received: AtomicU64,
    /// Bytes on the disk before this run.
    resumed: AtomicU64,
    retries: AtomicU32,
    verified: AtomicBool,
    active: AtomicBool,
}

impl FileMeter {
    /// Begins or continues the transfer with this many bytes on the disk.
    pub(crate) fn have(&self, bytes: u64) {
        self.present.store(bytes, Relaxed);
        self.active.store(true, Relaxed);
    }

    /// Begins the transfer with bytes of an earlier run.
    pub(crate) fn resume_from(&self, bytes: u64) {
        self.resumed.store(bytes, Relaxed);
        self.have(bytes);
    }

    /// Adds bytes from the network.
    pub(crate) fn received(&self, bytes: u64) {
        self.present.fetch_add(bytes, Relaxed);
        self.received.fetch_add(bytes, Relaxed);
    }

    /// Subtracts bytes that turned out to be damaged, or were dropped.
    pub(crate) fn lost(&self, bytes: u64) {
        self.present.fetch_sub(bytes, Relaxed);
    }

    /// Returns the bytes on the disk or on the way there.
    pub(crate) fn present(&self) -> u64 {
        self.present.load(Relaxed)
    }

    /// Counts one retry.
    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    /// Ends the transfer: all `size` bytes are verified.
    pub(crate) fn verified(&self, size: u64) {
        self.present.store(size, Relaxed);
        self.verified.store(true, Relaxed);
        self.active.store(false, Relaxed);
    }
}

/// The part of the whole that each stage takes, from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StageShares {
    transfer: f64,
    quantize: f64,
}

impl StageShares {
    pub(crate) const TRANSFER_ONLY: Self = Self { transfer: 0.96, quantize: 0.0 };
    pub(crate) const TRANSFER_AND_QUANTIZE: Self = Self { transfer: 0.80, quantize: 0.17 };
    pub(crate) const QUANTIZE_ONLY: Self = Self { transfer: 0.0, quantize: 0.96 };
}

/// The only writer of a download's snapshot. A final state is written once, and last.
#[derive(Debug)]
pub(crate) struct Reporter {
    snapshot: watch::Sender<Download>,
    meters: Vec<(Arc<FileMeter>, u64)>,
    shares: StageShares,
    speed: Speed,
    stalled_after: Duration,
    attempt: Attempt,
}

/// Quantizing starts again when the requested format cannot be made. Each attempt fills the part of the share that the
/// attempt before it left.
#[derive(Debug, Default, Clone, Copy)]
struct Attempt {
    begun_at: f64,
    done: f64,
}

impl Reporter {
    /// Makes a reporter with its first snapshot, and the receiver of all snapshots.
    pub(crate) fn new(first: Download, stalled_after: Duration) -> (Self, watch::Receiver<Download>) {
        let (snapshot, watcher) = watch::channel(first);
        let speed = Speed::new(Instant::now());
        let (shares, attempt) = (StageShares::TRANSFER_ONLY, Attempt::default());
        (Self { snapshot, meters: Vec::new(), shares, speed, stalled_after, attempt }, watcher)
    }

    /// Sets the position in the queue and the estimated start. An estimate that hardly changed is not written.
    pub(crate) fn waiting(&self, position: u32, start: Option<SystemTime>) {
        self.snapshot.send_if_modified(|download| {
            let start: Option<Timestamp> = start.map(Into::into);
            let is_near = |a: Timestamp, b: Timestamp| a.seconds.abs_diff(b.seconds) < 3;
            let same_start = match (download.estimated_start_time, start) {
                (Some(old), Some(new)) => is_near(old, new),
                (old, new) => old == new,
            };
            if !same_start {
                download.estimated_start_time = start;
            }
            let moved = std::mem::replace(&mut download.queue_position, position) != position;
            moved || !same_start
        });
    }

    /// Enters a stage. `detail` is shown to people.
    pub(crate) fn stage(&mut self, state: State, detail: &str) {
        self.snapshot.send_modify(|download| {
            download.set_state(state);
            download.queue_position = 0;
            download.estimated_start_time = None;
            detail.clone_into(&mut download.detail);
            if state != State::Downloading {
                download.speed_bytes_per_second = 0;
                download.seconds_left = 0;
                download.stalled = false;
            }
        });
    }

    /// Begins the transfer of files, given by path and size in bytes. Returns a meter for each.
    pub(crate) fn transfer(&mut self, files: &[(String, u64)], shares: StageShares) -> Vec<Arc<FileMeter>> {
        self.shares = shares;
        self.speed = Speed::new(Instant::now());
        self.meters = files.iter().map(|(_, size)| (Arc::default(), *size)).collect();
        self.snapshot.send_modify(|download| {
            download.total_bytes = files.iter().map(|(_, size)| *size as i64).sum();
            download.files = files
                .iter()
                .map(|(path, size)| FileProgress {
                    path: path.clone(),
                    total_bytes: *size as i64,
                    ..FileProgress::default()
                })
                .collect();
        });
        self.meters.iter().map(|(meter, _)| Arc::clone(meter)).collect()
    }

    /// Sets the shares of a job that transfers nothing.
    pub(crate) fn without_transfer(&mut self, shares: StageShares) {
        self.shares = shares;
    }

    /// Adds the meters to the snapshot.
    pub(crate) fn tick(&mut self) {
        let sum =
            |value: fn(&FileMeter) -> u64| self.meters.iter().map(|(meter, _)| value(meter)).sum::<u64>();
        let received = sum(|meter| meter.received.load(Relaxed));
        let resumed = sum(|meter| meter.resumed.load(Relaxed));
        let retries = sum(|meter| u64::from(meter.retries.load(Relaxed)));
        self.speed.sample(Instant::now(), received);
        let active = self.meters.iter().any(|(meter, _)| meter.active.load(Relaxed));
        let stalled = active && self.speed.silence() >= self.stalled_after;
        let speed = if stalled { 0.0 } else { self.speed.bytes_per_second };
        let (meters, share) = (&self.meters, self.shares.transfer);
        self.snapshot.send_modify(|download| {
            for (file, (meter, size)) in download.files.iter_mut().zip(meters) {
                let present = meter.present.load(Relaxed).min(*size) as i64;
                file.downloaded_bytes = file.downloaded_bytes.max(present);
                file.verified = meter.verified.load(Relaxed);
            }
            download.downloaded_bytes = download.files.iter().map(|file| file.downloaded_bytes).sum();
            download.resumed_bytes = resumed as i64;
            download.retries = retries as u32;
            download.stalled = stalled;
            download.speed_bytes_per_second = speed as i64;
            let left = (download.total_bytes - download.downloaded_bytes).max(0) as f64;
            download.seconds_left = if speed >= 1.0 { (left / speed).ceil() as i64 } else { 0 };
            let done = download.downloaded_bytes as f64 / download.total_bytes.max(1) as f64;
            download.fraction = download.fraction.max(share * done);
        });
    }

    /// Sets the progress of quantizing, from 0 to 1.
    pub(crate) fn quantizing(&mut self, done: f64, detail: String) {
        let done = done.clamp(0.0, 1.0);
        let StageShares { transfer, quantize } = self.shares;
        if done < self.attempt.done {
            self.attempt.begun_at += (1.0 - self.attempt.begun_at) * self.attempt.done;
        }
        self.attempt.done = done;
        let whole = self.attempt.begun_at + (1.0 - self.attempt.begun_at) * done;
        let fraction = transfer + quantize * whole;
        self.snapshot.send_modify(|download| {
            download.fraction = download.fraction.max(fraction);
            download.detail = detail;
        });
    }

    /// Ends the download as SUCCEEDED.
    pub(crate) fn succeed(&mut self) {
        self.end(State::Succeeded, |download| {
            download.fraction = 1.0;
            download.downloaded_bytes = download.total_bytes;
        });
    }

    /// Ends the download as FAILED.
    pub(crate) fn fail(&mut self, error: &ServiceError) {
        self.end(State::Failed, |download| download.error = Some(error.to_rpc()));
    }

    /// Ends the download as CANCELLED.
    pub(crate) fn cancelled(&mut self) {
        self.end(State::Cancelled, |_| {});
    }

    fn end(&mut self, state: State, change: impl FnOnce(&mut Download)) {
        if is_final(self.snapshot.borrow().state()) {
            return;
        }
        self.stage(state, "");
        self.snapshot.send_modify(|download| {
            download.end_time = Some(SystemTime::now().into());
            change(download);
        });
    }
}

/// Returns the first snapshot of a row whose job has not begun.
pub(crate) fn queued_snapshot(row: &Model) -> Download {
    let mut download = Download {
        name: format!("downloads/{}", row.id),
        model_id: row.id,
        handle: row.handle.clone(),
        repo_id: row.repo_id.clone(),
        start_time: Some(SystemTime::now().into()),
        ..Download::default()
    };
    download.set_quantization(row.requested_quantization());
    download.set_state(State::Queued);
    download
}

/// Returns whether a download in this state has ended.
pub(crate) const fn is_final(state: State) -> bool {
    matches!(state, State::Succeeded | State::Failed | State::Cancelled)
}

/// The speed, exponentially smoothed, and the time since the last byte.
#[derive(Debug)]
struct Speed {
    bytes_per_second: f64,
    at: Instant,
    bytes: u64,
    last_byte: Instant,
    warm: bool,
}

impl Speed {
    fn new(now: Instant) -> Self {
        Self { bytes_per_second: 0.0, at: now, bytes: 0, last_byte: now, warm: false }
    }

    fn sample(&mut self, now: Instant, bytes: u64) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        if elapsed < 0.02 {
            return;
        }
        if bytes > self.bytes {
            self.last_byte = now;
        }
        let current = bytes.saturating_sub(self.bytes) as f64 / elapsed;
        let weight = 1.0 - (-elapsed / SMOOTHING.as_secs_f64()).exp();
        self.bytes_per_second = if self.warm {
            self.bytes_per_second + weight * (current - self.bytes_per_second)
        } else {
            current
        };
        self.warm |= current > 0.0;
        self.at = now;
        self.bytes = bytes;
    }

    fn silence(&self) -> Duration {
        self.at.saturating_duration_since(self.last_byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reporter() -> (Reporter, watch::Receiver<Download>, Vec<Arc<FileMeter>>) {
        let (mut reporter, watcher) = Reporter::new(Download::default(), Duration::from_secs(1));
        let files = [("a".to_owned(), 100), ("b".to_owned(), 300)];
        let meters = reporter.transfer(&files, StageShares::TRANSFER_AND_QUANTIZE);
        (reporter, watcher, meters)
    }

    #[test]
    fn progress_never_decreases() {
        let (mut reporter, watcher, meters) = reporter();
        meters[1].resume_from(50);
        meters[1].received(250);
        reporter.tick();
        let before = watcher.borrow().clone();
        assert_eq!((before.downloaded_bytes, before.resumed_bytes, before.total_bytes), (300, 50, 400));
        meters[1].have(0);
        meters[1].retried();
        reporter.tick();
        let after = watcher.borrow().clone();
        assert!(after.fraction >= before.fraction && after.downloaded_bytes >= before.downloaded_bytes);
        assert_eq!(after.retries, 1);
    }

    #[test]
    fn a_second_format_fills_the_rest() {
        let (mut reporter, watcher, _) = reporter();
        let mut last = 0.0;
        for done in [0.0, 0.3, 0.6, 0.0, 0.5, 1.0] {
            reporter.quantizing(done, String::new());
            let fraction = watcher.borrow().fraction;
            assert!(fraction > last || done == 0.0, "{fraction} after {last}");
            assert!(fraction >= last);
            last = fraction;
        }
        assert!((last - 0.97).abs() < 1e-9);
    }

    #[test]
    fn the_final_state_is_written_once() {
        let (mut reporter, watcher, _) = reporter();
        reporter.succeed();
        reporter.fail(&ServiceError::cancelled());
        reporter.cancelled();
        let end = watcher.borrow().clone();
        assert_eq!((end.state(), end.error, end.fraction), (State::Succeeded, None, 1.0));
    }

    #[test]
    fn speed_is_smoothed_and_silence_is_measured() {
        let start = Instant::now();
        let mut speed = Speed::new(start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        for step in 1..=100 {
            speed.sample(at(step * 100), step * 1000);
        }
        assert!((speed.bytes_per_second - 10_000.0).abs() < 1.0);
        speed.sample(at(10_100), 101_000 + 50_000);
        assert!(speed.bytes_per_second < 30_000.0);
        assert_eq!(speed.silence(), Duration::ZERO);
        for step in 1..=20 {
            speed.sample(at(10_100 + step * 100), 151_000);
        }
        assert_eq!(speed.silence(), Duration::from_secs(2));
    }
}
