//! One unloading: wait for running requests, cancel what is left, free the memory.

use std::{sync::Arc, time::Duration};

use millm_proto::runtime::v1::{LoadState, UnloadProgress};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Loader, Outcome, Resident};

/// How long the engine may take to notice that requests were cancelled: some forward passes.
const CANCEL: Duration = Duration::from_secs(5);

pub struct Job {
    pub loader: Loader,
    pub resident: Arc<Resident>,
    pub drain: Duration,
    pub progress: watch::Sender<UnloadProgress>,
    pub forced: CancellationToken,
}

impl Job {
    pub async fn run(self) {
        let Self { loader, resident, drain, progress, forced } = self;
        let (id, handle) = (resident.id, resident.handle.clone());
        let tell = |pending: usize| {
            progress.send_if_modified(|progress| {
                let changed = progress.pending_requests != pending as u32;
                progress.pending_requests = pending as u32;
                changed
            });
        };
        let drained = tokio::select! {
            drained = timeout(drain, resident.requests.drained(tell)) => drained.is_ok(),
            () = forced.cancelled() => false,
        };
        if !drained {
            tracing::warn!(model = %handle, pending = resident.requests.pending(), "cancelling requests to unload");
            resident.engine.cancel_all();
            if timeout(CANCEL, resident.requests.drained(tell)).await.is_err() {
                tracing::error!(model = %handle, "requests did not end when cancelled");
            }
        }
        let before = loader.ground.devices.own();
        let (stopping, give_back) = (Arc::clone(&resident), loader.ground.give_back);
        // Waits for the engine's thread, which frees its memory.
        let stopped = tokio::task::spawn_blocking(move || {
            stopping.engine.stop();
            give_back();
        });
        let stopped = stopped.await;
        if let Err(panic) = stopped {
            tracing::error!(model = %handle, "stopping the engine: {panic}");
        }
        loader.commit(id, Outcome::Unloaded).await;
        drop(resident);
        let freed = before.saturating_sub(loader.ground.devices.own());
        tracing::info!(model = %handle, freed_bytes = freed, "unloaded");
        progress.send_modify(|progress| {
            progress.state = LoadState::Unloaded.into();
            progress.pending_requests = 0;
            progress.freed_bytes = freed as i64;
        });
    }
}
