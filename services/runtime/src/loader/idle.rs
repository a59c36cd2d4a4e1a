//! Idle unloading: a model is unloaded when it was not used for the time of the setting `keep_alive`.

use std::{sync::Arc, time::Duration};

use millm_kit::settings::KeepAlive;
use tokio::time::timeout;

use super::{handle::Loader, loaded_model::LoadedModel};

/// The shortest time that a model stays loaded before its first use.
const MIN_BEFORE_FIRST_USE: Duration = Duration::from_secs(60);

/// Unloads the model when it has been idle long enough. Ends when the model is gone.
pub(super) fn unload_when_idle(loader: Loader, model: &Arc<LoadedModel>) -> impl Future<Output = ()> + use<> {
    let (id, handle) = (model.id, model.handle.clone());
    let mut requests = model.requests.watch();
    let model = Arc::downgrade(model);
    async move {
        let KeepAlive::For(keep) = loader.options.keep_alive else { return };
        loop {
            let seen = *requests.borrow_and_update();
            if seen.count > 0 {
                if requests.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if let Some(model) = model.upgrade().filter(|_| seen.last_used.is_some()) {
                let (estimated_bytes, measured_bytes) =
                    (model.estimate.total_bytes, model.memory.peak_bytes());
                tracing::debug!(model = %handle, estimated_bytes, measured_bytes, "idle");
            }
            let timeout_after = if seen.last_used.is_some() { keep } else { keep.max(MIN_BEFORE_FIRST_USE) };
            match timeout(timeout_after, requests.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    tracing::info!(model = %handle, unused_seconds = timeout_after.as_secs(), "unloading an idle model");
                    if loader.unload_idle(id, seen).await {
                        return;
                    }
                }
            }
        }
    }
}
