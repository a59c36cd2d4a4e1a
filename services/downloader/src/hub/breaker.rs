//! The hub's circuit breaker. While the hub keeps failing it is not called: callers learn at once when the next probe is
//! due. After the pause one request probes the hub for all others.
//!
//! It is written by hand because concurrent failures must count as one (six connections of a transfer break together),
//! because waiting callers share the outcome of the probe, and because people see its state.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{Notify, futures::Notified};

const MAX_ERROR_CHARS: usize = 300;

/// The states of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// The circuit breaker's state, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) state: BreakerState,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// The time until the next probe, while the breaker is open.
    pub(crate) next_probe: Option<Duration>,
    pub(crate) last_error: Option<(String, SystemTime)>,
}

/// The reason why the hub must not be called now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// The breaker stays open for this long.
    Open(Duration),
    /// Another request probes the hub: [`Breaker::probe_finished`] waits for its end.
    Probing,
}

/// The circuit breaker of one hub.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// Failures in a row that open the breaker.
    threshold: u32,
    /// The time for which the breaker stays open.
    pause: Duration,
    record: Mutex<Record>,
    /// Wakes the requests that wait for the end of a probe.
    probed: Notify,
}

#[derive(Debug, Default)]
struct Record {
    failures: u32,
    /// Rises with each failure that counts. Concurrent requests that fail together count as one failure.
    round: u64,
    /// Set while the breaker is not closed.
    open_until: Option<Instant>,
    probing: bool,
    last_error: Option<(String, SystemTime)>,
}

/// The permission for one call. Its outcome must be reported; a permit that is dropped (the caller left) has none.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit<'a> {
    breaker: &'a Breaker,
    round: u64,
    is_probe: bool,
}

impl Breaker {
    /// Makes a closed breaker that opens after `threshold` failures in a row, for `pause`.
    pub(crate) fn new(threshold: u32, pause: Duration) -> Self {
        Self { threshold: threshold.max(1), pause, record: Mutex::default(), probed: Notify::new() }
    }

    /// Returns the permission for one call.
    ///
    /// # Errors
    ///
    /// Returns why the hub must not be called now.
    pub(crate) fn acquire(&self) -> Result<Permit<'_>, Rejected> {
        self.acquire_at(Instant::now())
    }

    /// Waits for the end of the present probe. Call it before [`Breaker::acquire`], so that the end is not missed.
    pub(crate) fn probe_finished(&self) -> Notified<'_> {
        self.probed.notified()
    }

    /// Returns the present state.
    pub(crate) fn health(&self) -> Health {
        self.health_at(Instant::now())
    }

    fn acquire_at(&self, now: Instant) -> Result<Permit<'_>, Rejected> {
        let mut record = self.locked();
        let round = record.round;
        let Some(until) = record.open_until else {
            return Ok(Permit { breaker: self, round, is_probe: false });
        };
        let left = until.saturating_duration_since(now);
        if !left.is_zero() {
            return Err(Rejected::Open(left));
        }
        if record.probing {
            return Err(Rejected::Probing);
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
            next_probe: left.filter(|left| !left.is_zero()),
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
    /// Reports a good answer.
    pub(crate) fn succeeded(self) {
        let mut record = self.breaker.locked();
        // An answer to a request from before the breaker opened says nothing about now.
        if self.is_probe || record.open_until.is_none() {
            record.close();
        }
    }

    /// Reports a refusal: the hub works, and the refusal is about the request. It ends a probe and changes nothing else.
    pub(crate) fn refused(self) {
        if self.is_probe {
            self.breaker.locked().close();
        }
    }

    /// Reports a failure of the hub.
    pub(crate) fn failed(self, why: &str) {
        self.failed_at(why, Instant::now());
    }

    fn failed_at(self, why: &str, now: Instant) {
        let mut record = self.breaker.locked();
        let why = why.chars().take(MAX_ERROR_CHARS).collect();
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
            self.breaker.probed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);

    /// A breaker and its clock.
    struct Fixture {
        breaker: Breaker,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            Self { breaker: Breaker::new(3, PAUSE), now: Instant::now() }
        }

        fn acquire(&self) -> Result<Permit<'_>, Rejected> {
            self.breaker.acquire_at(self.now)
        }

        fn fail(&self, times: u32) {
            for _ in 0..times {
                self.acquire().unwrap().failed_at("503", self.now);
            }
        }

        #[track_caller]
        fn check(&self, state: BreakerState, failures: u32) {
            let health = self.breaker.health_at(self.now);
            assert_eq!((health.state, health.failures), (state, failures));
        }
    }

    #[test]
    fn it_opens_probes_and_closes() {
        let mut fixture = Fixture::new();
        fixture.fail(2);
        fixture.check(BreakerState::Closed, 2);
        fixture.acquire().unwrap().succeeded();
        fixture.check(BreakerState::Closed, 0);
        fixture.fail(3);
        fixture.check(BreakerState::Open, 3);
        assert_eq!(fixture.acquire().unwrap_err(), Rejected::Open(PAUSE));
        fixture.now += Duration::from_secs(29);
        assert_eq!(fixture.breaker.health_at(fixture.now).next_probe, Some(Duration::from_secs(1)));
        fixture.now += Duration::from_secs(1);
        fixture.check(BreakerState::HalfOpen, 3);
        let probe = fixture.acquire().unwrap();
        assert_eq!(fixture.acquire().unwrap_err(), Rejected::Probing, "one at a time");
        probe.failed_at("still 503", fixture.now);
        fixture.check(BreakerState::Open, 4);
        fixture.now += PAUSE;
        fixture.acquire().unwrap().succeeded();
        fixture.check(BreakerState::Closed, 0);
        assert_eq!(fixture.breaker.health().last_error.unwrap().0, "still 503");
        drop((fixture.acquire().unwrap(), fixture.acquire().unwrap()));
    }

    #[test]
    fn a_dropped_probe_lets_another_request_probe() {
        let mut fixture = Fixture::new();
        fixture.fail(3);
        fixture.now += PAUSE;
        drop(fixture.acquire().unwrap());
        fixture.check(BreakerState::HalfOpen, 3);
        fixture.acquire().unwrap().refused();
        fixture.check(BreakerState::Closed, 0);
    }

    #[test]
    fn refusals_do_not_count() {
        let fixture = Fixture::new();
        fixture.fail(2);
        for _ in 0..10 {
            fixture.acquire().unwrap().refused();
        }
        fixture.check(BreakerState::Closed, 2);
        fixture.fail(1);
        fixture.check(BreakerState::Open, 3);
    }

    #[test]
    fn concurrent_failures_count_once() {
        let fixture = Fixture::new();
        let together: Vec<_> = (0..8).map(|_| fixture.acquire().unwrap()).collect();
        for permit in together {
            permit.failed_at("reset", fixture.now);
        }
        fixture.check(BreakerState::Closed, 1);
        let late = (fixture.acquire().unwrap(), fixture.acquire().unwrap());
        fixture.fail(2);
        fixture.check(BreakerState::Open, 3);
        late.0.failed_at("reset", fixture.now);
        late.1.succeeded();
        fixture.check(BreakerState::Open, 3);
    }
}
