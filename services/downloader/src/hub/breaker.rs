//! The circuit breaker before the hub: while it keeps failing nobody asks it, callers are told at once when it will be
//! tried again, and then one request tries for all.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{Notify, futures::Notified};

const MOST_ERROR_CHARS: usize = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// What a person may know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub state: BreakerState,
    /// In a row.
    pub failures: u32,
    /// Until the next try; only while open.
    pub next_try: Option<Duration>,
    pub last_error: Option<(String, SystemTime)>,
}

/// Why one must not ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// For so long nobody should.
    Open(Duration),
    /// Somebody is trying for all: [`Breaker::tried`] tells when it is over.
    Trying,
}

#[derive(Debug)]
pub struct Breaker {
    /// Failures in a row that open it.
    threshold: u32,
    /// How long it stays open.
    pause: Duration,
    record: Mutex<Record>,
    /// Wakes those who wait for the end of a try.
    tried: Notify,
}

#[derive(Debug, Default)]
struct Record {
    failures: u32,
    /// Rises with each failure that counts. Requests that were on their way together fail together: that is one
    /// failure, however many they were.
    round: u64,
    /// Set while it is not closed.
    open_until: Option<Instant>,
    probing: bool,
    last_error: Option<(String, SystemTime)>,
}

/// The right to ask once. What came of it has to be said; dropped unsaid (the caller left) it counts for nothing.
#[derive(Debug)]
#[must_use]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    round: u64,
    is_probe: bool,
}

impl Breaker {
    pub fn new(threshold: u32, pause: Duration) -> Self {
        Self { threshold: threshold.max(1), pause, record: Mutex::default(), tried: Notify::new() }
    }

    pub fn admit(&self) -> Result<Permit<'_>, Barred> {
        self.admit_at(Instant::now())
    }

    /// The end of the try that is under way; made before [`Breaker::admit`] is called, so that it cannot be missed.
    pub fn tried(&self) -> Notified<'_> {
        self.tried.notified()
    }

    pub fn health(&self) -> Health {
        self.health_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Result<Permit<'_>, Barred> {
        let mut record = self.locked();
        let round = record.round;
        let Some(until) = record.open_until else {
            return Ok(Permit { breaker: self, round, is_probe: false });
        };
        let left = until.saturating_duration_since(now);
        if !left.is_zero() {
            return Err(Barred::Open(left));
        }
        if record.probing {
            return Err(Barred::Trying);
        }
        record.probing = true;
        Ok(Permit { breaker: self, round, is_probe: true })
    }

    fn health_at(&self, now: Instant) -> Health {
        let record = self.locked();
        let left = record.open_until.map(|until| until.saturating_duration_since(now));
        let state = match left {
            None => BreakerState::Closed,
            Some(Duration::ZERO) => BreakerState::HalfOpen,
            Some(_) => BreakerState::Open,
        };
        Health {
            state,
            failures: record.failures,
            next_try: left.filter(|left| !left.is_zero()),
            last_error: record.last_error.clone(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn close(&mut self) {
        if self.open_until.take().is_some() {
            tracing::info!("the hub answers again");
        }
        self.failures = 0;
    }
}

impl Permit<'_> {
    /// The hub did what it should.
    pub fn succeeded(self) {
        let mut record = self.breaker.locked();
        // One that was sent before it opened proves nothing about now.
        if self.is_probe || record.open_until.is_none() {
            record.close();
        }
    }

    /// The hub is there, but said no: that is about the request. It only ends a try.
    pub fn answered(self) {
        if self.is_probe {
            self.breaker.locked().close();
        }
    }

    pub fn failed(self, why: &str) {
        self.failed_at(why, Instant::now());
    }

    fn failed_at(self, why: &str, now: Instant) {
        let mut record = self.breaker.locked();
        let why = why.chars().take(MOST_ERROR_CHARS).collect();
        record.last_error = Some((why, SystemTime::now()));
        if self.round != record.round {
            return;
        }
        record.round += 1;
        record.failures = record.failures.saturating_add(1);
        if self.is_probe || record.failures >= self.breaker.threshold {
            tracing::warn!(failures = record.failures, pause = ?self.breaker.pause, "the hub keeps failing");
            record.open_until = Some(now + self.breaker.pause);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.locked().probing = false;
            self.breaker.tried.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);

    /// A breaker and what time it is.
    struct Scene {
        breaker: Breaker,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Self { breaker: Breaker::new(3, PAUSE), now: Instant::now() }
        }

        fn admit(&self) -> Result<Permit<'_>, Barred> {
            self.breaker.admit_at(self.now)
        }

        fn fail(&self, times: u32) {
            for _ in 0..times {
                self.admit().unwrap().failed_at("503", self.now);
            }
        }

        #[track_caller]
        fn check(&self, state: BreakerState, failures: u32) {
            let health = self.breaker.health_at(self.now);
            assert_eq!((health.state, health.failures), (state, failures));
        }
    }

    #[test]
    fn it_opens_tries_and_closes() {
        let mut scene = Scene::new();
        scene.fail(2);
        scene.check(BreakerState::Closed, 2);
        scene.admit().unwrap().succeeded();
        scene.check(BreakerState::Closed, 0);
        scene.fail(3);
        scene.check(BreakerState::Open, 3);
        assert_eq!(scene.admit().unwrap_err(), Barred::Open(PAUSE));
        scene.now += Duration::from_secs(29);
        assert_eq!(scene.breaker.health_at(scene.now).next_try, Some(Duration::from_secs(1)));
        scene.now += Duration::from_secs(1);
        scene.check(BreakerState::HalfOpen, 3);
        let probe = scene.admit().unwrap();
        assert_eq!(scene.admit().unwrap_err(), Barred::Trying, "one at a time");
        probe.failed_at("still 503", scene.now);
        scene.check(BreakerState::Open, 4);
        scene.now += PAUSE;
        scene.admit().unwrap().succeeded();
        scene.check(BreakerState::Closed, 0);
        assert_eq!(scene.breaker.health().last_error.unwrap().0, "still 503");
        drop((scene.admit().unwrap(), scene.admit().unwrap()));
    }

    #[test]
    fn a_probe_that_leaves_lets_another_try() {
        let mut scene = Scene::new();
        scene.fail(3);
        scene.now += PAUSE;
        drop(scene.admit().unwrap());
        scene.check(BreakerState::HalfOpen, 3);
        scene.admit().unwrap().answered();
        scene.check(BreakerState::Closed, 0);
    }

    #[test]
    fn refusals_leave_it_untouched() {
        let scene = Scene::new();
        scene.fail(2);
        for _ in 0..10 {
            scene.admit().unwrap().answered();
        }
        scene.check(BreakerState::Closed, 2);
        scene.fail(1);
        scene.check(BreakerState::Open, 3);
    }

    #[test]
    fn what_fails_together_is_one_failure() {
        let scene = Scene::new();
        let together: Vec<_> = (0..8).map(|_| scene.admit().unwrap()).collect();
        for permit in together {
            permit.failed_at("reset", scene.now);
        }
        scene.check(BreakerState::Closed, 1);
        let late = (scene.admit().unwrap(), scene.admit().unwrap());
        scene.fail(2);
        scene.check(BreakerState::Open, 3);
        late.0.failed_at("reset", scene.now);
        late.1.succeeded();
        scene.check(BreakerState::Open, 3);
    }
}
