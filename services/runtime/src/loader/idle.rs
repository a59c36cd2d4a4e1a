//! Idle unloading: a model that nobody has used for as long as the setting says leaves.

use std::{sync::Arc, time::Duration};

use millm_kit::settings::KeepAlive;
use tokio::time::timeout;

use super::{Loader, Resident};

/// A model that was loaded and not used yet stays at least so long: whoever loaded it is about to.
const FIRST_USE: Duration = Duration::from_secs(60);

/// Ends when the model leaves.
pub fn watch(loader: Loader, resident: &Arc<Resident>) -> impl Future<Output = ()> + use<> {
    let (id, handle) = (resident.id, resident.handle.clone());
    let mut requests = resident.requests.watch();
    let resident = Arc::downgrade(resident);
    async move {
        let KeepAlive::For(keep) = loader.ground.keep_alive else { return };
        loop {
            let seen = *requests.borrow_and_update();
            if seen.count > 0 {
                if requests.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if let Some(resident) = resident.upgrade().filter(|_| seen.last_used.is_some()) {
                let (estimated_bytes, measured_bytes) =
                    (resident.estimate.total_bytes, resident.meter.peak_bytes());
                tracing::debug!(model = %handle, estimated_bytes, measured_bytes, "idle");
            }
            let patience = if seen.last_used.is_some() { keep } else { keep.max(FIRST_USE) };
            match timeout(patience, requests.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    tracing::info!(model = %handle, unused_seconds = patience.as_secs(), "unloading what nobody uses");
                    if loader.retire(id, seen).await {
                        return;
                    }
                }
            }
        }
    }
}
