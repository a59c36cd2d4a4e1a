//! The job of an unload: waits for running requests, cancels the rest, and frees the memory.

use std::{future::pending, sync::Arc, time::Duration};

use millm_proto::runtime::v1::{LoadState, UnloadProgress};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    command::Outcome,
    handle::Loader,
    loaded_model::{LoadedModel, UnloadHandle},
};

/// The time in which the engine ends cancelled requests: a few forward passes.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// The job of one unload.
pub(super) struct UnloadJob {
    loader: Loader,
    model: Arc<LoadedModel>,
    progress: watch::Sender<UnloadProgress>,
    deadline: watch::Receiver<Option<Instant>>,
    forced: CancellationToken,
}

impl UnloadJob {
    /// Returns a job that waits for requests at most `drain` ([`Duration::MAX`] has no limit), and its handle.
    pub fn new(
        loader: Loader,
        model: Arc<LoadedModel>,
        drain: Duration,
        forced: CancellationToken,
    ) -> (Self, UnloadHandle) {
        model.memory.set_in_transition(true);
        let (progress, watched) = watch::channel(UnloadProgress {
            model_id: model.id,
            handle: model.handle.clone(),
            state: LoadState::Unloading.into(),
            pending_requests: model.requests.activity().count as u32,
            freed_bytes: 0,
        });
        let (handle, deadline) = UnloadHandle::new(watched, drain);
        (Self { loader, model, progress, deadline, forced }, handle)
    }

    /// Runs the job.
    pub async fn run(self) {
        let Self { loader, model, progress, deadline, forced } = self;
        let (id, handle) = (model.id, model.handle.clone());
        let report = |pending: usize| {
            progress.send_if_modified(|progress| {
                let changed = progress.pending_requests != pending as u32;
                progress.pending_requests = pending as u32;
                changed
            });
        };
        let drained = tokio::select! {
            () = model.requests.drained(report) => true,
            () = deadline_passed(deadline) => false,
            () = forced.cancelled() => false,
        };
        if !drained {
            let pending = model.requests.activity().count;
            tracing::warn!(model = %handle, pending, "cancelling requests to unload");
            model.engine.cancel_all();
            if timeout(CANCEL_TIMEOUT, model.requests.drained(report)).await.is_err() {
                tracing::error!(model = %handle, "cancelled requests did not end in time");
            }
        }
        let before = loader.options.devices.used();
        let measured = model.memory.peak_bytes();
        let estimated = model.estimate.total_bytes;
        let (stopping, release_memory) = (Arc::clone(&model), loader.options.release_memory);
        // Blocks until the engine's thread has freed its memory.
        let stopped = tokio::task::spawn_blocking(move || {
            stopping.engine.stop();
            release_memory();
        });
        let stopped = stopped.await;
        if let Err(panic) = stopped {
            tracing::error!(model = %handle, "stopping the engine panicked: {panic}");
        }
        loader.commit(id, Outcome::Unloaded).await;
        drop(model);
        let freed = before.saturating_sub(loader.options.devices.used());
        tracing::info!(
            model = %handle, freed_bytes = freed,
            estimated_bytes = estimated, measured_peak_bytes = measured,
            "unloaded",
        );
        progress.send_modify(|progress| {
            progress.state = LoadState::Unloaded.into();
            progress.pending_requests = 0;
            progress.freed_bytes = freed as i64;
        });
    }
}

/// Waits until the deadline, which may change while it is waited for.
async fn deadline_passed(mut deadline: watch::Receiver<Option<Instant>>) {
    loop {
        let now = *deadline.borrow_and_update();
        tokio::select! {
            () = sleep_until_some(now) => return,
            changed = deadline.changed() => if changed.is_err() {
                // All handles are gone: the deadline does not change any more.
                return sleep_until_some(now).await;
            },
        }
    }
}

async fn sleep_until_some(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
