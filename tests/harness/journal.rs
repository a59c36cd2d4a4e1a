//! Questions to the fake hub's log: the bytes of a file that were sent, by which requests, and which of them twice.

use fake_hub::{Host, LogEntry, RunningHub};

/// The bytes that the hub may have sent on a broken connection without the client reading them: the buffers of both
/// sides.
pub const ON_THE_LINE: u64 = 1 << 20;
/// The bytes of weights' headers that are read before a download begins.
pub const LOOKED_AT: u64 = 1 << 20;

/// Returns the requests for the bytes of a large file, in their order.
pub fn fetches(hub: &RunningHub, file: &str) -> Vec<LogEntry> {
    let ending = format!("/{file}");
    let log = hub.log().into_iter();
    log.filter(|entry| entry.host == Host::Cdn && entry.method == "GET" && entry.path.ends_with(&ending))
        .collect()
}

/// Returns the requests to the hub itself whose path has this ending.
pub fn asked(hub: &RunningHub, ending: &str) -> Vec<LogEntry> {
    let log = hub.log().into_iter();
    log.filter(|entry| entry.host == Host::Hub && entry.path.ends_with(ending)).collect()
}

pub fn bytes_sent(entries: &[LogEntry]) -> u64 {
    entries.iter().map(|entry| entry.bytes_sent).sum()
}

/// Checks that the answers together sent every byte of a file of `size` bytes.
pub fn assert_covered(entries: &[LogEntry], size: u64) {
    let sent = |entry: &LogEntry| {
        let start = if entry.status == 206 { entry.range_start() } else { 0 };
        start..start + entry.bytes_sent
    };
    let mut parts: Vec<_> = entries.iter().filter(|entry| entry.bytes_sent > 0).map(sent).collect();
    parts.sort_by_key(|part| part.start);
    let mut covered = 0;
    for part in parts {
        assert!(part.start <= covered, "{covered}..{} was never sent: {entries:?}", part.start);
        covered = covered.max(part.end);
    }
    assert_eq!(covered, size, "{entries:?}");
}
