//! The setting AUTO_LOAD_MODEL: loads one model at startup, as soon as it is downloaded. Failures are only logged.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::{Model, model},
    runtime::v1::LoadState,
};

use crate::{
    catalog_client::CatalogClient,
    loader::{LoadRequest, Loader},
};

const MIN_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Loads the model and logs the result.
pub(crate) async fn load(name: String, catalog: CatalogClient, loader: Loader) {
    match try_load(&name, &catalog, &loader).await {
        Ok(true) => tracing::info!(model = %name, "loaded at startup"),
        Ok(false) => {
            tracing::info!(model = %name, "not loaded at startup: another model was loaded first");
        }
        Err(error) => {
            tracing::error!(model = %name, reason = error.reason.name(), "not loaded at startup: {error}");
        }
    }
}

/// Returns `false` if another model was loaded first.
async fn try_load(name: &str, catalog: &CatalogClient, loader: &Loader) -> Result<bool, ServiceError> {
    let model = wait_until_ready(name, catalog).await?;
    if !loader.models().borrow().is_empty() {
        return Ok(false);
    }
    let drain = loader.options.drain;
    let request = LoadRequest { model, context_length: None, allow_insufficient_memory: false, drain };
    let mut progress = loader.load(request).await?;
    let has_ended = |state| matches!(state, LoadState::Loaded | LoadState::Failed);
    let last = progress.wait_for(|progress| has_ended(progress.state())).await;
    let last = last.map_err(|_| ServiceError::load_failed("the load was cancelled"))?;
    match &last.error {
        Some(error) => Err(ServiceError::from_rpc(error)),
        None => Ok(true),
    }
}

/// Waits while the catalog is unavailable and while the model is downloading.
async fn wait_until_ready(name: &str, catalog: &CatalogClient) -> Result<Model, ServiceError> {
    let backoff = ExponentialBuilder::new().with_min_delay(MIN_PAUSE).with_max_delay(MAX_PAUSE);
    let mut pauses = backoff.without_max_times().build();
    loop {
        match catalog.find(name).await {
            Ok(model) if model.state() == model::State::Pending => {}
            Ok(_) => return catalog.ready(name).await,
            Err(error) if error.reason == Reason::ServiceUnavailable => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
    }
}
