//! Questions to the fake hub's log: which bytes of a file were sent, in which requests, and which twice.

use fake_hub::{Host, LogEntry, RunningHub};

/// What a request that breaks may have put on the line without our reading it: buffers of both sides.
pub const ON_THE_LINE: u64 = 1 << 20;
/// Headers of weights are looked at before a download begins.
pub const LOOKED_AT: u64 = 1 << 20;

/// Requests for the bytes of a large file, in their order.
pub fn fetches(hub: &RunningHub, file: &str) -> Vec<LogEntry> {
    let ending = format!("/{file}");
    let log = hub.log().into_iter();
    log.filter(|entry| entry.host == Host::Cdn && entry.method == "GET" && entry.path.ends_with(&ending))
        .collect()
}

/// Requests that the hub itself was asked, by the end of their path.
pub fn asked(hub: &RunningHub, ending: &str) -> Vec<LogEntry> {
    let log = hub.log().into_iter();
    log.filter(|entry| entry.host == Host::Hub && entry.path.ends_with(ending)).collect()
}

pub fn bytes_sent(entries: &[LogEntry]) -> u64 {
    entries.iter().map(|entry| entry.bytes_sent).sum()
}

/// Every byte of a file of `size` was sent, by answers that were of use: parts where parts were asked for.
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
