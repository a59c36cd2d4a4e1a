//! AUTO_LOAD_MODEL: loads one model when the server starts, as soon as it can be loaded. Whatever goes wrong is
//! logged; the server lives on.

use std::time::Duration;

use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::{Model, model},
    runtime::v1::LoadState,
};

use crate::{
    catalog::Catalog,
    loader::{Loader, Plan},
};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub async fn load(name: String, catalog: Catalog, loader: Loader) {
    match try_load(&name, &catalog, &loader).await {
        Ok(true) => tracing::info!(model = %name, "loaded at start"),
        Ok(false) => {
            tracing::info!(model = %name, "not loaded at start: another model was asked for meanwhile");
        }
        Err(error) => {
            tracing::error!(model = %name, reason = error.reason.name(), "not loaded at start: {error}");
        }
    }
}

/// `false` when somebody loaded something else first.
async fn try_load(name: &str, catalog: &Catalog, loader: &Loader) -> Result<bool, ServiceError> {
    let model = arrived(name, catalog).await?;
    if !loader.state().borrow().is_empty() {
        return Ok(false);
    }
    let drain = loader.ground.drain;
    let plan = Plan { model, context_length: None, allow_insufficient_memory: false, drain };
    let mut progress = loader.load(plan).await?;
    let ended = |state| matches!(state, LoadState::Loaded | LoadState::Failed);
    let last = progress.wait_for(|progress| ended(progress.state())).await;
    let last = last.map_err(|_| ServiceError::load_failed("the load was given up"))?;
    match &last.error {
        Some(error) => Err(ServiceError::from_rpc(error)),
        None => Ok(true),
    }
}

/// Waits while the Catalog is away and while the model is still arriving.
async fn arrived(name: &str, catalog: &Catalog) -> Result<Model, ServiceError> {
    let mut pause = FIRST_PAUSE;
    loop {
        match catalog.find(name).await {
            Ok(model) if model.state() == model::State::Pending => {}
            Ok(_) => return catalog.ready(name).await,
            Err(error) if error.reason == Reason::ServiceUnavailable => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
