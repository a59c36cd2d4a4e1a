//! One unloading: wait for running requests, cancel what is left, free the memory.

use std::{future::pending, sync::Arc, time::Duration};

use millm_proto::runtime::v1::{LoadState, UnloadProgress};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Loader, Outcome, Resident};

/// How long the engine may take to notice that requests were cancelled: some forward passes.
const CANCEL: Duration = Duration::from_secs(5);

/// An unloading as others see it.
#[derive(Clone)]
pub struct Departure {
    pub progress: watch::Receiver<UnloadProgress>,
    /// When requests are waited for no longer; `None` is without end.
    until: watch::Sender<Option<Instant>>,
}

impl Departure {
    /// Waits no longer than `drain` from now on.
    pub fn hasten(&self, drain: Duration) {
        let Some(sooner) = Instant::now().checked_add(drain) else { return };
        self.until.send_if_modified(|until| {
            let later = until.is_none_or(|until| until > sooner);
            if later {
                *until = Some(sooner);
            }
            later
        });
    }
}

pub struct Job {
    loader: Loader,
    resident: Arc<Resident>,
    progress: watch::Sender<UnloadProgress>,
    until: watch::Receiver<Option<Instant>>,
    forced: CancellationToken,
}

/// Requests are waited for as long as `drain` says, without end for [`Duration::MAX`].
pub fn begin(
    loader: Loader,
    resident: Arc<Resident>,
    drain: Duration,
    forced: CancellationToken,
) -> (Job, Departure) {
    resident.meter.moving(true);
    let (progress, seen) = watch::channel(UnloadProgress {
        model_id: resident.id,
        handle: resident.handle.clone(),
        state: LoadState::Unloading.into(),
        pending_requests: resident.requests.now().count as u32,
        freed_bytes: 0,
    });
    let (until, watched) = watch::channel(Instant::now().checked_add(drain));
    (Job { loader, resident, progress, until: watched, forced }, Departure { progress: seen, until })
}

impl Job {
    pub async fn run(self) {
        let Self { loader, resident, progress, until, forced } = self;
        let (id, handle) = (resident.id, resident.handle.clone());
        let tell = |pending: usize| {
            progress.send_if_modified(|progress| {
                let changed = progress.pending_requests != pending as u32;
                progress.pending_requests = pending as u32;
                changed
            });
        };
        let drained = tokio::select! {
            () = resident.requests.drained(tell) => true,
            () = passed(until) => false,
            () = forced.cancelled() => false,
        };
        if !drained {
            let pending = resident.requests.now().count;
            tracing::warn!(model = %handle, pending, "cancelling requests to unload");
            resident.engine.cancel_all();
            if timeout(CANCEL, resident.requests.drained(tell)).await.is_err() {
                tracing::error!(model = %handle, "requests did not end when cancelled");
            }
        }
        let before = loader.ground.devices.own();
        let measured = resident.meter.peak_bytes();
        let estimated = resident.estimate.total_bytes;
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

/// Until the time has come, which may be set anew.
async fn passed(mut until: watch::Receiver<Option<Instant>>) {
    loop {
        let now = *until.borrow_and_update();
        tokio::select! {
            () = come(now) => return,
            changed = until.changed() => if changed.is_err() {
                // Nobody can hasten it any more: what was set holds.
                return come(now).await;
            },
        }
    }
}

async fn come(until: Option<Instant>) {
    match until {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
