//! The request log: what was asked, what was answered, and how many bytes really left.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Which of the two origins was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Host {
    Hub,
    Cdn,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Rises by one with each request, also across `clear`.
    pub number: u64,
    /// Since the hub started.
    pub at_ms: u64,
    pub host: Host,
    pub method: String,
    /// Percent-decoded, without the query.
    pub path: String,
    pub query: String,
    /// The `Range` header as it came.
    pub range: Option<String>,
    /// Whether an `Authorization` header came; never its value.
    pub authorized: bool,
    /// 0 until answered.
    pub status: u16,
    /// Bytes of a file's body handed to the connection.
    pub bytes_sent: u64,
    /// Whether the answer was sent to its end.
    pub complete: bool,
}

impl LogEntry {
    /// The first byte that was asked for: 0 without a `Range` header.
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
    /// In the order of their numbers.
    entries: Vec<LogEntry>,
}

impl Journal {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { log: Mutex::default(), changes: watch::Sender::new(0), started: Instant::now() })
    }

    /// Enters a request; the ticket fills in the rest.
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

    pub fn entries(&self) -> Vec<LogEntry> {
        self.locked().entries.clone()
    }

    pub fn clear(&self) {
        self.locked().entries.clear();
        self.changed();
    }

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

/// The right to complete one entry. An entry that was cleared meanwhile is left alone.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    journal: Arc<Journal>,
    number: u64,
}

impl Ticket {
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn status(&self, status: u16) {
        self.update(|entry| entry.status = status);
    }

    pub fn sent(&self, bytes: u64) {
        self.update(|entry| entry.bytes_sent += bytes);
    }

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
