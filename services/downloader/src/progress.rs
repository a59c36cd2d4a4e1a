//! One download's snapshot and its only writer. Transfers count bytes into meters; the writer folds them into the
//! snapshot, which never goes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use millm_kit::ServiceError;
use millm_proto::downloader::v1::{Download, FileProgress, download::State};
use prost_types::Timestamp;
use tokio::sync::watch;

/// How often meters are folded while bytes flow.
pub const TICK: Duration = Duration::from_millis(100);

/// Over which time speed is smoothed.
const SMOOTHING: Duration = Duration::from_secs(3);

/// What one file's transfer counts. Written by the transfer, read by the [`Reporter`].
#[derive(Debug, Default)]
pub struct FileMeter {
    /// On disk or on the way there; falls when a file has to be started again.
    present: AtomicU64,
    /// All that came over the network.
    received: AtomicU64,
    /// On disk before this run.
    resumed: AtomicU64,
    retries: AtomicU32,
    verified: AtomicBool,
    active: AtomicBool,
}

impl FileMeter {
    /// The transfer begins or goes on with so many bytes there.
    pub fn have(&self, bytes: u64) {
        self.present.store(bytes, Relaxed);
        self.active.store(true, Relaxed);
    }

    pub fn resume_from(&self, bytes: u64) {
        self.resumed.store(bytes, Relaxed);
        self.have(bytes);
    }

    pub fn received(&self, bytes: u64) {
        self.present.fetch_add(bytes, Relaxed);
        self.received.fetch_add(bytes, Relaxed);
    }

    /// So many that were there are not.
    pub fn lost(&self, bytes: u64) {
        self.present.fetch_sub(bytes, Relaxed);
    }

    pub fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub fn verified(&self, size: u64) {
        self.present.store(size, Relaxed);
        self.verified.store(true, Relaxed);
        self.active.store(false, Relaxed);
    }
}

/// Which part of the whole each stage is.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    transfer: f64,
    quantize: f64,
}

impl Shares {
    pub const TRANSFER_ONLY: Self = Self { transfer: 0.96, quantize: 0.0 };
    pub const TRANSFER_AND_QUANTIZE: Self = Self { transfer: 0.80, quantize: 0.17 };
    pub const QUANTIZE_ONLY: Self = Self { transfer: 0.0, quantize: 0.96 };
}

/// Sole writer of a download's snapshot: a final state is written once, and last.
#[derive(Debug)]
pub struct Reporter {
    snapshot: watch::Sender<Download>,
    meters: Vec<(Arc<FileMeter>, u64)>,
    shares: Shares,
    speed: Speed,
    stalled_after: Duration,
    attempt: Attempt,
}

/// Quantizing begins anew when the asked for format cannot be made: each attempt then fills what the one before it
/// left of the share.
#[derive(Debug, Default, Clone, Copy)]
struct Attempt {
    begun_at: f64,
    done: f64,
}

impl Reporter {
    pub fn new(first: Download, stalled_after: Duration) -> (Self, watch::Receiver<Download>) {
        let (snapshot, watcher) = watch::channel(first);
        let speed = Speed::new(Instant::now());
        let (shares, attempt) = (Shares::TRANSFER_ONLY, Attempt::default());
        (Self { snapshot, meters: Vec::new(), shares, speed, stalled_after, attempt }, watcher)
    }

    /// Its place in the queue, and when its turn may come. An estimate that hardly moves is not told again.
    pub fn waiting(&self, position: u32, start: Option<SystemTime>) {
        self.snapshot.send_if_modified(|download| {
            let start: Option<Timestamp> = start.map(Into::into);
            let near = |a: Timestamp, b: Timestamp| a.seconds.abs_diff(b.seconds) < 3;
            let same_start = match (download.estimated_start_time, start) {
                (Some(old), Some(new)) => near(old, new),
                (old, new) => old == new,
            };
            if !same_start {
                download.estimated_start_time = start;
            }
            let moved = std::mem::replace(&mut download.queue_position, position) != position;
            moved || !same_start
        });
    }

    pub fn stage(&mut self, state: State, detail: &str) {
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

    /// From here on these files are transferred; a meter for each.
    pub fn transfer(&mut self, files: &[(String, u64)], shares: Shares) -> Vec<Arc<FileMeter>> {
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

    pub fn without_transfer(&mut self, shares: Shares) {
        self.shares = shares;
    }

    /// Folds the meters in.
    pub fn tick(&mut self) {
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

    /// `done`: 0 to 1.
    pub fn quantizing(&mut self, done: f64, detail: String) {
        let done = done.clamp(0.0, 1.0);
        let Shares { transfer, quantize } = self.shares;
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

    pub fn succeed(&mut self) {
        self.end(State::Succeeded, |download| {
            download.fraction = 1.0;
            download.downloaded_bytes = download.total_bytes;
        });
    }

    pub fn fail(&mut self, error: &ServiceError) {
        self.end(State::Failed, |download| download.error = Some(error.to_rpc()));
    }

    pub fn cancelled(&mut self) {
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

pub const fn is_final(state: State) -> bool {
    matches!(state, State::Succeeded | State::Failed | State::Cancelled)
}

/// Exponentially smoothed, and how long nothing came.
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
        let meters = reporter.transfer(&files, Shares::TRANSFER_AND_QUANTIZE);
        (reporter, watcher, meters)
    }

    #[test]
    fn nothing_goes_back() {
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
    fn another_format_fills_the_rest() {
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
    fn speed_is_smooth_and_silence_is_noticed() {
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
