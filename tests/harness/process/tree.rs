//! A server's process and its sandbox processes, from `/proc`: their states, start times and memory.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::DEADLINE;

/// The first argument of a sandbox process.
const HELPER: &str = "sandbox";

/// The process of a server and its descendants.
#[derive(Debug, Clone)]
pub struct ProcessTree {
    root: u32,
    /// The start time in clock ticks since boot. A process that reuses the id has a later one.
    started: u64,
}

/// The state of a process in `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub id: u32,
    pub parent: u32,
    /// The state: `R`, `S`, `T`, `Z`, …
    pub state: char,
    started: u64,
}

impl ProcessTree {
    pub fn of(root: u32) -> Self {
        let started = stat(root).expect("the process runs").started;
        Self { root, started }
    }

    /// Returns whether the process is alive.
    pub fn is_alive(&self) -> bool {
        stat_line(self.root).is_some_and(|seen| seen.started == self.started && seen.state != 'Z')
    }

    /// Returns the sandbox processes except zombies, parents before their forks.
    pub fn sandbox_processes(&self) -> Vec<Seen> {
        let all: Vec<Seen> = processes().filter_map(stat).filter(|seen| seen.state != 'Z').collect();
        let mut found: Vec<Seen> = Vec::new();
        let mut parents = vec![self.root];
        while let Some(parent) = parents.pop() {
            let children = all.iter().filter(|seen| seen.parent == parent);
            for child in children {
                parents.insert(0, child.id);
                if is_helper(child.id) {
                    found.push(*child);
                }
            }
        }
        found
    }

    /// Returns the helpers, which the server started itself.
    pub fn helpers(&self) -> Vec<Seen> {
        self.sandbox_processes().into_iter().filter(|seen| seen.parent == self.root).collect()
    }

    /// Returns the forks of helpers. Each works on one prompt or one grammar.
    pub fn forks(&self) -> Vec<Seen> {
        self.sandbox_processes().into_iter().filter(|seen| seen.parent != self.root).collect()
    }

    /// Waits until there are forks and returns them. Gives up after a while: no event tells when a fork begins.
    pub async fn first_forks(&self) -> Vec<Seen> {
        let started = Instant::now();
        loop {
            let forks = self.forks();
            if !forks.is_empty() {
                return forks;
            }
            assert!(
                started.elapsed() < DEADLINE,
                "no helper began to work; helpers: {:?}",
                self.sandbox_processes()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Returns the resident bytes of the server and its sandbox processes. A page that several share counts once.
    pub fn resident_bytes(&self) -> u64 {
        let helpers: u64 = self.sandbox_processes().iter().map(|seen| proportional_bytes(seen.id)).sum();
        resident_bytes(self.root) + helpers
    }

    /// Returns the memory once it is at most `limit` bytes. Panics if it stays above.
    pub async fn settled_below(&self, limit: u64) -> u64 {
        const PATIENCE: Duration = Duration::from_secs(30);
        let started = Instant::now();
        loop {
            let bytes = self.resident_bytes();
            if bytes <= limit {
                return bytes;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{} MB are still in use, {} MB are allowed: {} by the server, by its helpers {:?}",
                bytes >> 20,
                limit >> 20,
                resident_bytes(self.root) >> 20,
                self.sandbox_processes()
                    .iter()
                    .map(|seen| (seen.id, seen.parent, proportional_bytes(seen.id) >> 20))
                    .collect::<Vec<_>>()
            );
            // Memory is returned gradually, and no event tells when.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Seen {
    /// Sends a signal. A process that has ended in the meantime is no error.
    pub fn signal(&self, signal: i32) {
        if stat(self.id).is_some_and(|now| now.started == self.started) {
            let id = i32::try_from(self.id).expect("ids are small");
            // SAFETY: the id is a sandbox process of this test's server, seen a moment ago with the same start time.
            unsafe { libc::kill(id, signal) };
        }
    }

    /// Limits the address space to its current size, so that the next large allocation fails.
    pub fn starve(&self) {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.id)).unwrap_or_default();
        let pages: u64 = pages.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default();
        let limit = libc::rlimit { rlim_cur: pages * page_bytes(), rlim_max: pages * page_bytes() };
        let id = i32::try_from(self.id).expect("ids are small");
        // SAFETY: reads `limit` only, which outlives the call.
        unsafe { libc::prlimit(id, libc::RLIMIT_AS, &raw const limit, std::ptr::null_mut()) };
    }

    /// Returns whether the process still runs.
    pub fn is_alive(&self) -> bool {
        stat(self.id).is_some_and(|now| now.started == self.started && now.state != 'Z')
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").expect("Linux").flatten();
    entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
}

/// Returns the state of a process. A sleeping process with a running thread counts as running.
fn stat(id: u32) -> Option<Seen> {
    let seen = stat_line(id)?;
    let runs = || threads(id).any(|thread| thread.contains(") R "));
    Some(Seen { state: if seen.state == 'S' && runs() { 'R' } else { seen.state }, ..seen })
}

/// Parses proc_pid_stat(5). The name may hold anything, so fields are counted from its end.
fn stat_line(id: u32) -> Option<Seen> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Seen {
        id,
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Returns `stat` of each thread.
fn threads(id: u32) -> impl Iterator<Item = String> {
    let all = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    all.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok())
}

fn is_helper(id: u32) -> bool {
    let words = std::fs::read(Path::new("/proc").join(id.to_string()).join("cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).nth(1) == Some(HELPER.as_bytes())
}

/// Returns the resident bytes of a process, or 0 if it has ended.
fn resident_bytes(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/statm")).unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * page_bytes()
}

/// Returns `Pss` of proc_pid_smaps(5), in which each page is divided by the number of its users, or 0 if the process
/// has ended.
fn proportional_bytes(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() << 10
}

fn page_bytes() -> u64 {
    // SAFETY: reads a constant of the system.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("pages have a size")
}
