//! The one table of times and limits by which the hub is asked: timeouts, retries and their pauses.

use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use http::HeaderMap;
use millm_kit::Settings;

/// A transfer that brings fewer bytes a second than this is as good as stalled.
const LOWEST_SPEED: u64 = 256;

/// A connection that most others are faster than by this factor is left for a new one, so often for one range.
pub const LEFT_BEHIND: u64 = 20;
pub const LEFT_BEHIND_TIMES: u32 = 2;

/// An attempt that brought this many bytes was worth it: the retries count anew.
pub const WORTHWHILE_BYTES: u64 = 256 << 10;

/// What is written, checked and noted at once. With what is on its way to the disk it is what a kill makes us fetch
/// again: less than a chunk for each connection.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// What one request asks for; a multiple of blocks.
pub const CHUNK_BYTES: u64 = 4 << 20;

/// Requests of one download that are on their way at once.
pub const CONNECTIONS: usize = 6;

/// Blocks in memory for one download: what is being received and written, and what waits for its turn to be hashed,
/// which is up to a chunk for each connection but one. While fewer than `SPARE_BLOCKS` are free the last of those are
/// read back from the disk instead.
pub const POOL_BLOCKS: usize = 24;
pub const SPARE_BLOCKS: usize = CONNECTIONS + 2;

/// Threads that write one large file.
pub const WRITERS: usize = 2;

/// From this size on files are written past the page cache.
pub const DIRECT_FROM_BYTES: u64 = 16 << 20;

/// What the page cache may hold unsynced where that is not possible.
pub const UNSYNCED_BYTES: u64 = 64 << 20;

/// Large files whose bytes come, or are verified and named, at once.
pub const LARGE_FILES_AT_ONCE: usize = 3;

/// Small files are fetched this many at a time, each in one stream, and are those up to `SMALL_FILE_BYTES`.
pub const SMALL_FILES_AT_ONCE: usize = 4;
pub const SMALL_FILE_BYTES: u64 = 8 << 20;

/// The attempts of one call alone never open the breaker: with more retries it takes more failures.
const LEAST_BREAKER_FAILURES: u32 = 5;

/// How long the hub's word on a token holds: it does not like to be asked. A no may be about to be mended.
pub const ACCEPTED_TOKEN_FOR: Duration = Duration::from_mins(10);
pub const OTHER_TOKEN_FOR: Duration = Duration::from_mins(1);

#[derive(Debug, Clone)]
pub struct Policy {
    pub connect_timeout: Duration,
    /// An API call's answer must be complete by then.
    pub answer_timeout: Duration,
    /// Without a byte for so long, or slower than `LOWEST_SPEED`, a transfer is given up and tried again.
    pub stall_timeout: Duration,
    /// Over which time connections are compared with each other.
    pub lap: Duration,
    /// When people are told that nothing comes.
    pub stalled_after: Duration,
    pub retries: usize,
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// The most that `Retry-After` and `RateLimit` can make us wait.
    pub longest_wait: Duration,
    /// So many failures of the hub in a row and nobody asks it for `breaker_pause`; then one request may try.
    pub breaker_failures: u32,
    pub breaker_pause: Duration,
}

impl Policy {
    pub fn new(settings: &Settings) -> Self {
        let stall_timeout = settings.download_stall_timeout.max(Duration::from_millis(100));
        Self {
            connect_timeout: Duration::from_secs(10).min(stall_timeout),
            answer_timeout: Duration::from_secs(30).min(stall_timeout * 2),
            stall_timeout,
            lap: stall_timeout / 3,
            stalled_after: Duration::from_secs(5).min(stall_timeout / 2),
            retries: settings.download_retries as usize,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(20),
            longest_wait: Duration::from_mins(2),
            breaker_failures: settings.download_retries.saturating_add(2).max(LEAST_BREAKER_FAILURES),
            breaker_pause: settings.hub_pause,
        }
    }

    /// The pauses before each further attempt; as many as there are retries.
    pub fn pauses(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(self.first_pause)
            .with_factor(2.0)
            .with_max_delay(self.longest_pause)
            .with_max_times(self.retries)
            .with_jitter()
            .build()
    }

    /// Bytes that must come within `stall_timeout` for a transfer to count as alive.
    pub fn bytes_to_live(&self) -> u64 {
        ((self.stall_timeout.as_secs_f64() * LOWEST_SPEED as f64) as u64).max(1)
    }

    /// A pause of our own or the hub's, whichever is longer, within the limit.
    pub fn pause(&self, own: Duration, asked: Option<Duration>) -> Duration {
        asked.map_or(own, |asked| asked.min(self.longest_wait).max(own))
    }
}

/// What the hub asks us to wait: `RateLimit: "api";r=0;t=55`, `Retry-After` in seconds or as a date.
pub fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let rate_limit = text("ratelimit").and_then(|value| {
        let field = |key: &str| value.split([';', ',']).find_map(|part| part.trim().strip_prefix(key));
        let remaining: u64 = field("r=")?.parse().ok()?;
        let seconds: u64 = field("t=")?.parse().ok()?;
        (remaining == 0).then(|| Duration::from_secs(seconds))
    });
    let retry_after = text("retry-after").and_then(|value| match value.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => seconds_until(value.trim()),
    });
    rate_limit.max(retry_after)
}

/// Of an HTTP date in any of its forms (RFC 9110 §5.6.7); what is past needs no wait.
fn seconds_until(date: &str) -> Option<Duration> {
    let at = httpdate::parse_http_date(date).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read() {
        let check = |name: &'static str, value: &str, expected: Option<u64>| {
            let headers =
                HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())]);
            assert_eq!(asked_wait(&headers).map(|wait| wait.as_secs()), expected, "{value}");
        };
        check("retry-after", "7", Some(7));
        check("retry-after", "soon", None);
        check("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT", Some(0));
        check("ratelimit", "\"api\";r=0;t=55", Some(55));
        check("ratelimit", "\"api\";r=3;t=55", None);
        let far = asked_wait(&HeaderMap::from_iter([(
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
        let settings = Settings::load(None, |_| None, &[]).unwrap();
        let policy = Policy::new(&settings);
        let pauses: Vec<_> = policy.pauses().collect();
        assert_eq!(pauses.len(), 3);
        assert!(pauses.windows(2).all(|pair| pair[0] < pair[1] * 2));
        assert_eq!(
            policy.pause(Duration::from_secs(1), Some(Duration::from_secs(9999))),
            policy.longest_wait
        );
    }
}
