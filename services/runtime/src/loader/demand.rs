//! Loading on demand: a request waits until its model is loaded.
//!
//! Requests for the same model share one load. Models load in the order of their requests, and no running request is
//! cancelled for a load.

use std::{sync::Arc, time::Duration};

use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::Model,
    runtime::v1::{LoadProgress, LoadState},
};
use tokio::sync::watch;

use super::{
    command::LoadRequest,
    handle::{Loader, stopped},
    loaded_model::{LoadedModel, Models, Phase},
    requests::RequestGuard,
};

/// The state of a model for a request. With a guard the model counts as in use.
pub(crate) enum Lookup {
    Loaded(Arc<LoadedModel>, RequestGuard),
    Loading(watch::Receiver<LoadProgress>, RequestGuard),
    Unloading,
    NotLoaded,
}

impl Loader {
    /// Looks a model up for a request.
    ///
    /// The guard is taken while the list is locked, so an unload that begins later waits for the request.
    pub fn lookup(&self, id: i64) -> Lookup {
        match self.models.borrow().get(&id).map(|entry| &entry.phase) {
            Some(Phase::Loaded(model)) => Lookup::Loaded(Arc::clone(model), model.requests.begin()),
            Some(Phase::Loading(progress, requests)) => Lookup::Loading(progress.clone(), requests.begin()),
            Some(Phase::Unloading(..)) => Lookup::Unloading,
            Some(Phase::Failed(_)) | None => Lookup::NotLoaded,
        }
    }

    /// Returns the model, and loads it first if necessary. Dropping the future does not cancel a load that has begun.
    ///
    /// # Errors
    ///
    /// QUEUE_FULL if too many requests wait for models, MODEL_LOADING if the load takes too long, or the error of the
    /// load.
    pub async fn load_on_demand(
        &self,
        model: Model,
    ) -> Result<(Arc<LoadedModel>, RequestGuard), ServiceError> {
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(ServiceError::queue_full(self.options.queue_size as usize));
        };
        let handle = model.handle.clone();
        let loaded = tokio::time::timeout(self.options.load_timeout, self.wait_until_loaded(&model)).await;
        loaded.unwrap_or_else(|_| Err(ServiceError::loading(handle)))
    }

    async fn wait_until_loaded(
        &self,
        model: &Model,
    ) -> Result<(Arc<LoadedModel>, RequestGuard), ServiceError> {
        // Kept until the next guard is taken, so that the model is not evicted in between.
        let mut _guard = None;
        loop {
            match self.lookup(model.id) {
                Lookup::Loaded(model, guard) => return Ok((model, guard)),
                Lookup::Loading(progress, guard) => {
                    _guard = Some(guard);
                    load_ended(progress).await?;
                }
                Lookup::Unloading => {
                    self.wait_for(|models| !has_state(models, model.id, LoadState::Unloading)).await?;
                }
                Lookup::NotLoaded => self.begin_load(model).await?,
            }
        }
    }

    /// Begins the load when it is the model's turn, unless another request begins it first.
    async fn begin_load(&self, model: &Model) -> Result<(), ServiceError> {
        let id = model.id;
        let is_listed =
            |models: &Models| models.get(&id).is_some_and(|entry| entry.state() != LoadState::Failed);
        let _turn = tokio::select! {
            biased;
            turn = self.demand_turn.acquire() => turn.map_err(|_| stopped())?,
            listed = self.wait_for(is_listed) => return listed,
        };
        let is_any_loading =
            |models: &Models| models.values().any(|entry| entry.state() == LoadState::Loading);
        self.wait_for(|models| is_listed(models) || !is_any_loading(models)).await?;
        if is_listed(&self.models.borrow()) {
            return Ok(());
        }
        let request = LoadRequest {
            model: model.clone(),
            context_length: None,
            allow_insufficient_memory: false,
            drain: Duration::MAX,
        };
        match self.load(request).await {
            // Another caller's load came first: look again.
            Err(error) if matches!(error.reason, Reason::ModelAlreadyLoaded | Reason::ModelLoading) => Ok(()),
            started => started.map(drop),
        }
    }

    async fn wait_for(&self, wanted: impl FnMut(&Models) -> bool) -> Result<(), ServiceError> {
        self.models().wait_for(wanted).await.map(drop).map_err(|_| stopped())
    }
}

fn has_state(models: &Models, id: i64, state: LoadState) -> bool {
    models.get(&id).is_some_and(|entry| entry.state() == state)
}

/// Waits for the end of a load and returns its error. A load that was refused reports its error only to its caller.
async fn load_ended(mut progress: watch::Receiver<LoadProgress>) -> Result<(), ServiceError> {
    let has_ended =
        |progress: &LoadProgress| matches!(progress.state(), LoadState::Loaded | LoadState::Failed);
    match progress.wait_for(has_ended).await {
        Ok(last) => last.error.as_ref().map_or(Ok(()), |error| Err(ServiceError::from_rpc(error))),
        Err(_) => Ok(()),
    }
}
