//! The one table of sizes, counts and times by which downloads are made.

use std::time::Duration;

use millm_kit::Settings;

use crate::retry::RetryPolicy;

/// A transfer that is slower than this counts as stalled, in bytes a second.
const LOWEST_SPEED: u64 = 256;

/// A connection is replaced when most others are faster by this factor.
pub(crate) const SLOW_FACTOR: u64 = 20;
/// The number of times that the connection of one range is replaced for being slow.
pub(crate) const MAX_SLOW_RECONNECTS: u32 = 2;

/// Bytes after which an attempt counts as progress: the retries start again.
pub(crate) const PROGRESS_BYTES: u64 = 256 << 10;

/// Bytes that are written, checked and noted as one. A kill loses the blocks that are on their way to the disk: less
/// than a chunk for each connection.
pub(crate) const BLOCK_BYTES: u64 = 1 << 20;

/// Bytes that one request asks for: a multiple of [`BLOCK_BYTES`].
pub(crate) const CHUNK_BYTES: u64 = 4 << 20;

/// Requests of one download that run at once.
pub(crate) const CONNECTIONS: usize = 6;

/// Buffers of one block in memory, for one download. They hold blocks that are received, written, or wait to be
/// hashed in order; the latter are up to a chunk for each connection but one.
pub(crate) const POOL_BUFFERS: usize = 24;
/// While fewer buffers are free, the blocks that would wait longest for the hasher are dropped and read back from the
/// disk later.
pub(crate) const SPARE_BUFFERS: usize = CONNECTIONS + 2;

/// Threads that write one large file.
pub(crate) const WRITERS: usize = 2;

/// Files from this size on are written past the page cache, in bytes.
pub(crate) const DIRECT_FROM_BYTES: u64 = 16 << 20;

/// Bytes that the page cache may hold unsynced where writing past it is not possible.
pub(crate) const UNSYNCED_BYTES: u64 = 64 << 20;

/// Large files that are transferred, verified or renamed at once.
pub(crate) const LARGE_FILES_AT_ONCE: usize = 3;

/// Small files that are transferred at once, each in one stream.
pub(crate) const SMALL_FILES_AT_ONCE: usize = 4;
/// The largest small file, in bytes.
pub(crate) const SMALL_FILE_BYTES: u64 = 8 << 20;

/// The attempts of one call alone never open the circuit breaker: with more retries it needs more failures.
const LEAST_BREAKER_FAILURES: u32 = 5;

/// The time for which the hub's acceptance of a token is remembered. The endpoint is strictly rate-limited.
pub(crate) const ACCEPTED_TOKEN_TTL: Duration = Duration::from_mins(10);
/// The time for which any other answer about a token is remembered. It is shorter: the token may be corrected soon.
pub(crate) const OTHER_TOKEN_TTL: Duration = Duration::from_mins(1);

/// Times and counts for one hub, from the settings.
#[derive(Debug, Clone)]
pub(crate) struct HubLimits {
    pub(crate) connect_timeout: Duration,
    /// The answer to an API call must be complete by then.
    pub(crate) answer_timeout: Duration,
    /// A transfer fails when no byte comes for this long, or fewer than [`LOWEST_SPEED`] a second.
    pub(crate) stall_timeout: Duration,
    /// The time over which connections are compared with each other.
    pub(crate) speed_window: Duration,
    /// The silence after which a download is shown as stalled.
    pub(crate) stalled_after: Duration,
    pub(crate) retry: RetryPolicy,
    /// Failures of the hub in a row that open the circuit breaker.
    pub(crate) breaker_failures: u32,
    /// The time for which the circuit breaker stays open before one request may probe the hub.
    pub(crate) breaker_pause: Duration,
}

impl HubLimits {
    /// Reads the limits from the settings.
    pub(crate) fn new(settings: &Settings) -> Self {
        let stall_timeout = settings.download_stall_timeout.max(Duration::from_millis(100));
        Self {
            connect_timeout: Duration::from_secs(10).min(stall_timeout),
            answer_timeout: Duration::from_secs(30).min(stall_timeout * 2),
            stall_timeout,
            speed_window: stall_timeout / 3,
            stalled_after: Duration::from_secs(5).min(stall_timeout / 2),
            retry: RetryPolicy::hub(settings.download_retries as usize),
            breaker_failures: settings.download_retries.saturating_add(2).max(LEAST_BREAKER_FAILURES),
            breaker_pause: settings.hub_pause,
        }
    }

    /// Returns the bytes that must come within `stall_timeout`.
    pub(crate) fn bytes_before_stall(&self) -> u64 {
        ((self.stall_timeout.as_secs_f64() * LOWEST_SPEED as f64) as u64).max(1)
    }
}
