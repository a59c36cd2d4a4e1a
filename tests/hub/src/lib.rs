//! A fake Hugging Face hub for tests: models and datasets behind the hub's protocol, with faults on demand and a log of
//! all requests. Like the real hub it has two origins: the hub, and a CDN for large files.
//!
//! ```no_run
//! use fake_hub::{Fault, FaultKind, Hub, RepoSpec};
//! # fn main() -> std::io::Result<()> {
//! let hub = Hub::builder()
//!     .repo(RepoSpec::new("owner/name").file("config.json", "{}"))
//!     .start()?;
//! hub.fault(Fault::new("*/config.json", FaultKind::Cut { after: 1 }).times(1));
//! println!("HF_ENDPOINT={}", hub.url());
//! # Ok(()) }
//! ```
//!
//! Clients that are not in Rust start the `fake-hub` binary and use `/_hub/…` (`serve/control.rs`).

mod answer;
mod body;
mod fault;
mod gate;
mod journal;
mod repo;
mod route;
mod running_hub;
mod serve;
mod state;
pub mod synthetic;
mod throttle;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use fault::{Fault, FaultKind, FaultState};
pub use journal::{Host, LogEntry};
pub use repo::blob::{Blob, Content, Pattern, Seeded, Tiled, git_oid};
pub use repo::{Files, Gated, Kind, RepoSettings, RepoSpec, SeededFile, files_of};
pub use running_hub::{Pause, RunningHub};

use running_hub::SEND_BUFFER;
use state::{HubState, Options};

/// A valid token, of the user `reader`, without access to any gated or private repository.
pub const READER_TOKEN: &str = "hf_reader";

/// The entry point: [`Hub::builder`].
#[derive(Debug)]
pub struct Hub;

impl Hub {
    /// Returns a builder of an empty hub.
    pub fn builder() -> HubBuilder {
        HubBuilder {
            models: Vec::new(),
            repos: Vec::new(),
            port: 0,
            options: Options {
                resolve_cache: false,
                page_size: 1000,
                link_lifetime: Duration::from_hours(1),
                send_buffer: SEND_BUFFER,
                tokens: BTreeMap::from([(READER_TOKEN.to_owned(), "reader".to_owned())]),
            },
        }
    }
}

/// The content and the options of a hub that is not started yet.
#[derive(Debug)]
pub struct HubBuilder {
    models: Vec<PathBuf>,
    repos: Vec<RepoSpec>,
    port: u16,
    options: Options,
}

impl HubBuilder {
    /// Adds a folder of models: `<dir>/<owner>/<name>/files…`. A folder directly below `dir` that has files is a
    /// repository without an owner.
    #[must_use]
    pub fn models_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.models.push(dir.into());
        self
    }

    /// Adds a repository.
    #[must_use]
    pub fn repo(mut self, spec: RepoSpec) -> Self {
        self.repos.push(spec);
        self
    }

    /// Makes a token valid, without access to any gated or private repository.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>, owner: impl Into<String>) -> Self {
        self.options.tokens.insert(token.into(), owner.into());
        self
    }

    /// Sets the hub's port. The default is any free port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Redirects requests for small files to `/api/resolve-cache/`, as the live hub may.
    #[must_use]
    pub fn resolve_cache(mut self) -> Self {
        self.options.resolve_cache = true;
        self
    }

    /// Sets the number of entries on a page of trees and lists. The default is 1000.
    #[must_use]
    pub fn page_size(mut self, entries: usize) -> Self {
        self.options.page_size = entries.max(1);
        self
    }

    /// Sets the time for which signed links are valid. The default is an hour.
    #[must_use]
    pub fn link_lifetime(mut self, lifetime: Duration) -> Self {
        self.options.link_lifetime = lifetime;
        self
    }

    /// Sets the bytes that a connection's socket buffers. The default is small, so that the log's byte counts are close
    /// to the bytes that a vanished client has read. A large buffer is faster.
    #[must_use]
    pub fn send_buffer(mut self, bytes: u32) -> Self {
        self.options.send_buffer = bytes;
        self
    }

    /// Starts the hub.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or the port cannot be bound.
    pub fn start(self) -> io::Result<RunningHub> {
        let state = HubState::new(self.options);
        for dir in &self.models {
            for spec in models_in(dir)? {
                state.add(spec)?;
            }
        }
        for spec in self.repos {
            state.add(spec)?;
        }
        RunningHub::start(state, self.port)
    }
}

fn models_in(dir: &Path) -> io::Result<Vec<RepoSpec>> {
    let mut specs = Vec::new();
    for (name, path) in folders(dir)? {
        let has_files = std::fs::read_dir(&path)?.flatten().any(|entry| entry.path().is_file());
        if has_files {
            specs.push(RepoSpec::folder(name, &path)?);
            continue;
        }
        for (below, path) in folders(&path)? {
            specs.push(RepoSpec::folder(format!("{name}/{below}"), &path)?);
        }
    }
    Ok(specs)
}

fn folders(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries =
        std::fs::read_dir(dir).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))?;
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with('.') {
            folders.push((name, entry.path()));
        }
    }
    Ok(folders)
}
