//! The request log: each request, its answer's status, and the number of bytes sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// One of the two origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Host {
    /// The hub.
    Hub,
    /// The CDN, which serves files in LFS.
    Cdn,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The request's number, which rises by one with each request, also across `clear`.
    pub number: u64,
    /// Milliseconds since the hub started.
    pub at_ms: u64,
    /// The origin that received the request.
    pub host: Host,
    /// The HTTP method.
    pub method: String,
    /// The percent-decoded path, without the query.
    pub path: String,
    /// The query as received.
    pub query: String,
    /// The `Range` header as received.
    pub range: Option<String>,
    /// True if the request had an `Authorization` header. Its value is not logged.
    pub authorized: bool,
    /// The status of the answer; 0 until then.
    pub status: u16,
    /// The bytes of a file's body that were handed to the connection.
    pub bytes_sent: u64,
    /// True if the answer was sent to its end.
    pub complete: bool,
}

impl LogEntry {
    /// Returns the first byte of the requested range: 0 without a `Range` header.
    pub fn range_start(&self) -> u64 {
        let range = self.range.as_deref().and_then(|range| range.strip_prefix("bytes="));
        range.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or(0)
    }
}

#[derive(Debug)]
pub(crate) struct Journal {
    log: Mutex<Log>,
    changes: watch::Sender<u64>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Log {
    last_number: u64,
    /// The requests in the order of their numbers.
    entries: Vec<LogEntry>,
}

impl Journal {
    /// Returns an empty log.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { log: Mutex::default(), changes: watch::Sender::new(0), started: Instant::now() })
    }

    /// Logs a request. The ticket adds its answer.
    pub fn open(self: &Arc<Self>, mut entry: LogEntry) -> Ticket {
        entry.at_ms = self.started.elapsed().as_millis() as u64;
        let mut log = self.locked();
        log.last_number += 1;
        let number = log.last_number;
        entry.number = number;
        log.entries.push(entry);
        drop(log);
        self.changed();
        Ticket { journal: Arc::clone(self), number }
    }

    /// Returns all requests since the log was cleared.
    pub fn entries(&self) -> Vec<LogEntry> {
        self.locked().entries.clone()
    }

    /// Removes all entries.
    pub fn clear(&self) {
        self.locked().entries.clear();
        self.changed();
    }

    /// Returns a receiver that is notified of each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn locked(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }
}

/// A handle that completes one entry. An entry that was cleared in the meantime is not restored.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    journal: Arc<Journal>,
    number: u64,
}

impl Ticket {
    /// Returns the request's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Logs the status of the answer.
    pub fn status(&self, status: u16) {
        self.update(|entry| entry.status = status);
    }

    /// Adds to the bytes that were sent.
    pub fn sent(&self, bytes: u64) {
        self.update(|entry| entry.bytes_sent += bytes);
    }

    /// Logs that the answer was sent to its end.
    pub fn complete(&self) {
        self.update(|entry| entry.complete = true);
    }

    fn update(&self, change: impl FnOnce(&mut LogEntry)) {
        let mut log = self.journal.locked();
        let found = log.entries.binary_search_by_key(&self.number, |entry| entry.number);
        if let Ok(index) = found {
            change(&mut log.entries[index]);
            drop(log);
            self.journal.changed();
        }
    }
}
