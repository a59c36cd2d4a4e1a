//! Retries of failed operations, and the pauses before them. There are three policies:
//!
//! | policy | for | retries |
//! |---|---|---|
//! | [`RetryPolicy::hub`] | calls to the hub, and the ranges of a transfer | the setting `download_retries` |
//! | [`RetryPolicy::CATALOG`] | calls to the Catalog | until it answers |
//! | [`RetryPolicy::STARTUP`] | the repair at startup | until it succeeds |
//!
//! [`HubError`](crate::hub::error::HubError) says which failures of the hub are retried, and
//! [`HubLimits`](crate::limits::HubLimits) reads the setting. Calls give up at once while the circuit breaker is open;
//! ranges wait for it.
//!
//! The pauses come from `backon`: exponential, with jitter. A server's `Retry-After` or `RateLimit` header can make a
//! pause longer, up to a limit.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder, Retryable as _};
use http::HeaderMap;
use millm_kit::ServiceError;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The number of retries of an operation, and the pauses between them. Jitter makes each pause up to twice as long as
/// the fields say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryPolicy {
    /// The pause before the first retry. It doubles with each further retry.
    pub(crate) first_pause: Duration,
    /// The pause does not grow beyond this.
    pub(crate) longest_pause_before_jitter: Duration,
    /// The longest pause that a server can ask for.
    pub(crate) longest_requested_pause: Duration,
    /// Attempts after the first one; `None` means until it succeeds.
    pub(crate) max_retries: Option<usize>,
}

/// An error that can be retried.
pub(crate) trait RetryError {
    /// Returns the reason, for the log.
    fn reason(&self) -> String;

    /// Returns the pause that the server asked for.
    fn requested_pause(&self) -> Option<Duration> {
        None
    }
}

impl RetryError for Status {
    fn reason(&self) -> String {
        self.message().to_owned()
    }
}

impl RetryError for ServiceError {
    fn reason(&self) -> String {
        self.message.clone()
    }
}

impl RetryPolicy {
    /// Waits for a Catalog that restarts, for as long as it takes.
    pub(crate) const CATALOG: Self = Self {
        first_pause: Duration::from_millis(100),
        longest_pause_before_jitter: Duration::from_secs(2),
        longest_requested_pause: Duration::ZERO,
        max_retries: None,
    };

    /// Repeats the repair at startup until the Catalog and the models folder could be read.
    pub(crate) const STARTUP: Self = Self { first_pause: Duration::from_secs(1), ..Self::CATALOG };

    /// Returns the policy for calls to the hub and its file servers.
    pub(crate) const fn hub(max_retries: usize) -> Self {
        Self {
            first_pause: Duration::from_millis(250),
            longest_pause_before_jitter: Duration::from_secs(20),
            longest_requested_pause: Duration::from_mins(2),
            max_retries: Some(max_retries),
        }
    }

    fn backoff(&self) -> ExponentialBuilder {
        let backoff = ExponentialBuilder::new()
            .with_min_delay(self.first_pause)
            .with_factor(2.0)
            .with_max_delay(self.longest_pause_before_jitter)
            .with_jitter();
        match self.max_retries {
            Some(times) => backoff.with_max_times(times),
            None => backoff.without_max_times(),
        }
    }

    /// Returns the longer of our own pause and the requested one, which is cut at its limit.
    fn pause(&self, own: Duration, requested: Option<Duration>) -> Duration {
        requested.map_or(own, |requested| requested.min(self.longest_requested_pause).max(own))
    }

    /// Calls `operation` until it succeeds, fails with an error that `is_transient` rejects, or no retry is left.
    ///
    /// # Errors
    ///
    /// Returns the error of the last attempt.
    pub(crate) async fn run<T, E: RetryError, F: Future<Output = Result<T, E>>>(
        &self,
        operation: impl FnMut() -> F,
        is_transient: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        operation
            .retry(self.backoff())
            .when(is_transient)
            .adjust(|error, pause| pause.map(|pause| self.pause(pause, error.requested_pause())))
            .notify(|error, pause| tracing::debug!(reason = error.reason(), ?pause, "trying again"))
            .await
    }

    /// Does the same as [`Self::run`], but gives up at a pause when the process stops. A running attempt is not
    /// interrupted, because its effect would be unknown. Returns `None` if it gave up.
    ///
    /// # Errors
    ///
    /// Returns the first error that `is_transient` rejects.
    pub(crate) async fn run_until_stopped<T, E: RetryError, F: Future<Output = Result<T, E>>>(
        &self,
        shutdown: &CancellationToken,
        operation: impl FnMut() -> F,
        is_transient: impl Fn(&E) -> bool,
    ) -> Option<Result<T, E>> {
        let gave_up = Arc::new(Notify::new());
        let sleep = {
            let (shutdown, gave_up) = (shutdown.clone(), Arc::clone(&gave_up));
            move |pause| {
                let (shutdown, gave_up) = (shutdown.clone(), Arc::clone(&gave_up));
                async move {
                    if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        gave_up.notify_one();
                        std::future::pending::<()>().await;
                    }
                }
            }
        };
        let attempts = operation
            .retry(self.backoff())
            .sleep(sleep)
            .when(is_transient)
            .notify(|error, pause| tracing::warn!(reason = error.reason(), ?pause, "trying again"));
        tokio::select! {
            biased;
            result = attempts => Some(result),
            () = gave_up.notified() => None,
        }
    }

    /// Returns the pauses for an operation that keeps its progress between attempts.
    pub(crate) fn pauses(&self) -> Pauses {
        Pauses { policy: *self, left: self.backoff().build() }
    }
}

/// The pauses that are left for an operation that keeps its progress between attempts: a range of a transfer.
/// `backon`'s own loop cannot start its count again after progress.
#[derive(Debug)]
pub(crate) struct Pauses {
    policy: RetryPolicy,
    left: ExponentialBackoff,
}

impl Pauses {
    /// Returns the pause after an attempt that brought nothing, or `None` when no retry is left.
    pub(crate) fn after_failure(&mut self, requested: Option<Duration>) -> Option<Duration> {
        self.left.next().map(|own| self.policy.pause(own, requested))
    }

    /// Returns the pause after an attempt that made progress. The count of retries starts again, and the pause is
    /// only as long as the server asked for: the connection may just have been cut. `None` when the policy allows no
    /// retry at all.
    pub(crate) fn after_progress(&mut self, requested: Option<Duration>) -> Option<Duration> {
        *self = self.policy.pauses();
        self.left.next().map(|_| self.policy.pause(Duration::ZERO, requested))
    }
}

/// Returns the pause that a response asks for: `RateLimit: "api";r=0;t=55`, or `Retry-After` in seconds or as a date
/// (RFC 9110 §10.2.3).
pub(crate) fn requested_pause(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let rate_limit = text("ratelimit").and_then(|value| {
        let field = |key: &str| value.split([';', ',']).find_map(|part| part.trim().strip_prefix(key));
        let remaining: u64 = field("r=")?.parse().ok()?;
        let seconds: u64 = field("t=")?.parse().ok()?;
        (remaining == 0).then(|| Duration::from_secs(seconds))
    });
    let retry_after = text("retry-after").and_then(|value| match value.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => duration_until(value.trim()),
    });
    rate_limit.max(retry_after)
}

/// Returns the time until an HTTP date (RFC 9110 §5.6.7, all three forms); zero for a date in the past.
fn duration_until(date: &str) -> Option<Duration> {
    let at = httpdate::parse_http_date(date).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const QUICK: RetryPolicy = RetryPolicy {
        first_pause: Duration::from_millis(1),
        longest_pause_before_jitter: Duration::from_millis(1),
        longest_requested_pause: Duration::ZERO,
        max_retries: Some(3),
    };

    #[test]
    fn requested_pauses_are_read() {
        let check = |name: &'static str, value: &str, expected: Option<u64>| {
            let headers =
                HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())]);
            assert_eq!(requested_pause(&headers).map(|wait| wait.as_secs()), expected, "{value}");
        };
        check("retry-after", "7", Some(7));
        check("retry-after", "soon", None);
        check("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT", Some(0));
        check("ratelimit", "\"api\";r=0;t=55", Some(55));
        check("ratelimit", "\"api\";r=3;t=55", None);
        let far = requested_pause(&HeaderMap::from_iter([(
            http::header::RETRY_AFTER,
            "Fri, 01 Jan 2112 00:00:00 GMT".parse().unwrap(),
        )]));
        // 2112-01-01 is 4 481 049 600 seconds after 1970.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let expected = 4_481_049_600 - now;
        assert!(far.unwrap().as_secs().abs_diff(expected) <= 2, "{far:?}");
    }

    #[test]
    fn pauses_rise_and_end() {
        let policy = RetryPolicy::hub(3);
        let mut left = policy.pauses();
        let pauses: Vec<_> = std::iter::from_fn(|| left.after_failure(None)).collect();
        assert_eq!(pauses.len(), 3);
        assert!(pauses.windows(2).all(|pair| pair[0] < pair[1] * 2));
        let requested = Some(Duration::from_secs(9999));
        assert_eq!(policy.pause(Duration::from_secs(1), requested), policy.longest_requested_pause);
    }

    #[test]
    fn progress_starts_the_count_again() {
        let mut left = RetryPolicy::hub(1).pauses();
        assert!(left.after_failure(None).is_some() && left.after_failure(None).is_none());
        assert_eq!(left.after_progress(None), Some(Duration::ZERO));
        assert_eq!(left.after_progress(Some(Duration::from_secs(3))), Some(Duration::from_secs(3)));
        assert!(left.after_failure(None).is_none());
        assert_eq!(RetryPolicy::hub(0).pauses().after_progress(None), None);
    }

    #[tokio::test]
    async fn only_transient_errors_are_retried() {
        let attempts = Cell::new(0);
        let fail = || async {
            attempts.set(attempts.get() + 1);
            Err::<(), _>(Status::unavailable("away"))
        };
        assert!(QUICK.run(fail, |_| true).await.is_err());
        assert_eq!(attempts.take(), 4);
        assert!(QUICK.run(fail, |_| false).await.is_err());
        assert_eq!(attempts.take(), 1);
    }

    #[tokio::test]
    async fn a_process_that_stops_gives_up_after_the_attempt() {
        let (attempts, shutdown) = (Cell::new(0), CancellationToken::new());
        let fail = || async {
            attempts.set(attempts.get() + 1);
            if attempts.get() == 3 {
                shutdown.cancel();
            }
            Err::<(), _>(Status::unavailable("away"))
        };
        let endless = RetryPolicy { max_retries: None, ..QUICK };
        assert!(endless.run_until_stopped(&shutdown, fail, |_| true).await.is_none());
        assert_eq!(attempts.get(), 3);
    }
}
