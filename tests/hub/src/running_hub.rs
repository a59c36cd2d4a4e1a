//! A running hub. It has its own threads and its own runtime, so that tests of any kind can use it, and so that
//! stopping it breaks every connection at once, as a crash does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use crate::fault::{Fault, FaultKind, FaultState};
use crate::gate::Gate;
use crate::journal::LogEntry;
use crate::repo::{Files, Kind, RepoSpec};
use crate::route::RepoId;
use crate::serve;
use crate::state::{HubState, Origins};

/// The default size of a socket's send buffer, in bytes.
pub(crate) const SEND_BUFFER: u32 = 128 * 1024;

/// The fake hub. Dropping it stops it.
#[derive(Debug)]
pub struct RunningHub {
    state: Arc<HubState>,
    ports: Ports,
    host: Option<HostThread>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    hub: u16,
    cdn: u16,
}

#[derive(Debug)]
struct HostThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl RunningHub {
    /// Starts the hub at a port; 0 is any free port. The CDN always takes any free port.
    pub(crate) fn start(state: HubState, port: u16) -> io::Result<Self> {
        let state = Arc::new(state);
        let (ports, host) = spawn(&state, Ports { hub: port, cdn: 0 })?;
        Ok(Self { state, ports, host: Some(host) })
    }

    /// Returns the hub's address, `http://127.0.0.1:PORT`, for `HF_ENDPOINT`.
    pub fn url(&self) -> &str {
        &self.state.origins().hub
    }

    /// Returns the address of the CDN, the other origin, which serves files in LFS.
    pub fn cdn_url(&self) -> &str {
        &self.state.origins().cdn
    }

    /// Adds or replaces a repository. Returns the commit of its `main`.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub fn add_repo(&self, spec: RepoSpec) -> io::Result<String> {
        self.state.add(spec)
    }

    /// Removes a model's repository.
    pub fn remove_repo(&self, id: &str) {
        self.state.remove(&RepoId { kind: Kind::Model, id: id.to_owned() });
    }

    /// Commits exactly these files to a branch of a model's repository. Returns the new commit.
    ///
    /// # Errors
    /// Returns an error if there is no such repository, or if a file cannot be read.
    pub fn commit(&self, repo: &str, branch: &str, files: Files) -> io::Result<String> {
        self.state.commit(repo, branch, files)
    }

    /// Points a branch to another commit of its repository.
    ///
    /// # Errors
    /// Returns an error if there is no such repository or commit.
    pub fn move_branch(&self, repo: &str, branch: &str, commit: &str) -> io::Result<()> {
        self.state.move_branch(repo, branch, commit)
    }

    /// Arms a fault. Returns its id.
    pub fn fault(&self, fault: Fault) -> u64 {
        self.state.faults.add(fault).0
    }

    /// Disarms a fault and releases the bodies that it holds.
    pub fn disarm(&self, id: u64) {
        self.state.faults.remove(id);
    }

    /// Disarms all faults and releases the bodies that they hold.
    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// Returns the number of requests that a fault was applied to: 0 if there is none with this id.
    pub fn fault_uses(&self, id: u64) -> u32 {
        self.faults().iter().find(|state| state.id == id).map_or(0, |state| state.uses)
    }

    /// Returns the state of each armed fault.
    pub fn faults(&self) -> Vec<FaultState> {
        self.state.faults.states()
    }

    /// Holds each body of a file whose address matches `path` (see [`Fault::path`]) at byte `at` of the file, until the
    /// pause is released.
    pub fn pause_at(&self, path: &str, at: u64) -> Pause {
        let (id, gate) = self.state.faults.add(Fault::new(path, FaultKind::Pause { at }));
        Pause { state: Arc::clone(&self.state), id, gate }
    }

    /// Invalidates all links that were signed so far.
    pub fn expire_links(&self) {
        self.state.expire_links();
    }

    /// Returns all requests, in the order in which they arrived.
    pub fn log(&self) -> Vec<LogEntry> {
        self.state.journal.entries()
    }

    /// Clears the log.
    pub fn clear_log(&self) {
        self.state.journal.clear();
    }

    /// Returns the log as soon as `wanted` holds for it. Has no timeout: the caller sets a deadline.
    pub async fn logged(&self, wanted: impl Fn(&[LogEntry]) -> bool) -> Vec<LogEntry> {
        let mut changes = self.state.journal.watch();
        loop {
            changes.borrow_and_update();
            let log = self.log();
            if wanted(&log) {
                return log;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Stops answering and breaks every connection. Content, faults and log stay.
    pub fn take_down(&mut self) {
        if let Some(HostThread { stop, thread }) = self.host.take() {
            // Either may have ended already, and then there is nothing to stop.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }

    /// Answers again at the same addresses.
    ///
    /// # Errors
    /// Returns an error if a port cannot be bound again.
    pub fn bring_up(&mut self) -> io::Result<()> {
        if self.host.is_none() {
            self.host = Some(spawn(&self.state, self.ports)?.1);
        }
        Ok(())
    }

    /// Stops the hub.
    pub fn stop(mut self) {
        self.take_down();
    }
}

impl Drop for RunningHub {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// A byte of a file at which bodies wait.
#[derive(Debug)]
pub struct Pause {
    state: Arc<HubState>,
    id: u64,
    gate: Arc<Gate>,
}

impl Pause {
    /// Returns when a body has reached the pause.
    pub async fn reached(&self) {
        self.gate.wait_held(1).await;
    }

    /// Returns when this many bodies have reached the pause, including bodies that have ended since.
    pub async fn reached_times(&self, times: u32) {
        self.gate.wait_held(times).await;
    }

    /// Releases all bodies, and holds no more.
    pub fn release(self) {
        self.state.faults.remove(self.id);
    }
}

fn spawn(state: &Arc<HubState>, ports: Ports) -> io::Result<(Ports, HostThread)> {
    let (stop, stopped) = oneshot::channel();
    let (bound, result) = mpsc::channel();
    let state = Arc::clone(state);
    let thread = std::thread::Builder::new().name("fake-hub".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime needs nothing but threads");
        runtime.block_on(async {
            match listen(ports, state.options.send_buffer) {
                Ok((ports, hub, cdn)) => {
                    // A restart keeps the addresses.
                    state.origins.get_or_init(|| origins(ports));
                    let _ = bound.send(Ok(ports));
                    tokio::select! {
                        _ = stopped => {}
                        _ = axum::serve(hub, serve::hub(Arc::clone(&state))) => {}
                        _ = axum::serve(cdn, serve::cdn(state)) => {}
                    }
                }
                Err(e) => drop(bound.send(Err(e))),
            }
        });
        // Dropping the runtime here drops every connection.
    })?;
    let ports = result.recv().map_err(io::Error::other)??;
    Ok((ports, HostThread { stop, thread }))
}

fn origins(ports: Ports) -> Origins {
    let origin = |port| format!("http://{}:{port}", Ipv4Addr::LOCALHOST);
    Origins { hub: origin(ports.hub), cdn: origin(ports.cdn) }
}

fn listen(ports: Ports, send_buffer: u32) -> io::Result<(Ports, TcpListener, TcpListener)> {
    let (hub, cdn) = (listener(ports.hub, send_buffer)?, listener(ports.cdn, send_buffer)?);
    let ports = Ports { hub: hub.local_addr()?.port(), cdn: cdn.local_addr()?.port() };
    Ok((ports, hub, cdn))
}

fn listener(port: u16, send_buffer: u32) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit the size.
    socket.set_send_buffer_size(send_buffer)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    socket.listen(1024)
}
