//! Loading on demand: a request waits until its model is loaded. Requests for one model share its load; models
//! take their turns in the order in which they were asked for, and nobody's running request is cancelled for it.

use std::{sync::Arc, time::Duration};

use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::Model,
    runtime::v1::{LoadProgress, LoadState},
};
use tokio::sync::watch;

use super::{
    Loader, Plan,
    entry::{Models, Phase, Resident, Turn},
    gone,
};

/// Where a model is for a request. With a turn it counts as in use.
pub enum Place {
    Here(Arc<Resident>, Turn),
    Coming(watch::Receiver<LoadProgress>, Turn),
    Leaving,
    Absent,
}

impl Loader {
    /// The turn is taken while nothing can change: an unloading that begins now waits for it.
    pub fn place(&self, id: i64) -> Place {
        match self.state.borrow().get(&id).map(|entry| &entry.phase) {
            Some(Phase::Loaded(resident)) => Place::Here(Arc::clone(resident), resident.requests.begin()),
            Some(Phase::Loading(progress, requests)) => Place::Coming(progress.clone(), requests.begin()),
            Some(Phase::Unloading(..)) => Place::Leaving,
            Some(Phase::Failed(_)) | None => Place::Absent,
        }
    }

    /// The model, loaded first where it is not. QUEUE_FULL when too many wait for models, MODEL_LOADING when it
    /// takes too long, or why it cannot be loaded. Leaving stops the waiting, not a load that has begun.
    pub async fn bring(&self, model: Model) -> Result<(Arc<Resident>, Turn), ServiceError> {
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(ServiceError::queue_full(self.ground.queue as usize));
        };
        let handle = model.handle.clone();
        let brought = tokio::time::timeout(self.ground.load_timeout, self.wait_for(&model)).await;
        brought.unwrap_or_else(|_| Err(ServiceError::loading(handle)))
    }

    async fn wait_for(&self, model: &Model) -> Result<(Arc<Resident>, Turn), ServiceError> {
        // Kept until the next turn is taken, or the model could leave between the two.
        let mut _held = None;
        loop {
            match self.place(model.id) {
                Place::Here(resident, turn) => return Ok((resident, turn)),
                Place::Coming(progress, turn) => {
                    _held = Some(turn);
                    ended(progress).await?;
                }
                Place::Leaving => self.until(|models| !is(models, model.id, LoadState::Unloading)).await?,
                Place::Absent => self.begin(model).await?,
            }
        }
    }

    /// Begins the load when its turn has come, unless somebody else does meanwhile.
    async fn begin(&self, model: &Model) -> Result<(), ServiceError> {
        let id = model.id;
        let known = |models: &Models| models.get(&id).is_some_and(|entry| entry.state() != LoadState::Failed);
        let _turn = tokio::select! {
            biased;
            turn = self.loads.acquire() => turn.map_err(|_| gone())?,
            begun = self.until(known) => return begun,
        };
        let loading = |models: &Models| models.values().any(|entry| entry.state() == LoadState::Loading);
        self.until(|models| known(models) || !loading(models)).await?;
        if known(&self.state.borrow()) {
            return Ok(());
        }
        let plan = Plan {
            model: model.clone(),
            context_length: None,
            allow_insufficient_memory: false,
            drain: Duration::MAX,
        };
        match self.load(plan).await {
            // Somebody's own load came first: look again.
            Err(error) if matches!(error.reason, Reason::ModelAlreadyLoaded | Reason::ModelLoading) => Ok(()),
            begun => begun.map(drop),
        }
    }

    async fn until(&self, wanted: impl FnMut(&Models) -> bool) -> Result<(), ServiceError> {
        self.state().wait_for(wanted).await.map(drop).map_err(|_| gone())
    }
}

fn is(models: &Models, id: i64, state: LoadState) -> bool {
    models.get(&id).is_some_and(|entry| entry.state() == state)
}

/// Why the load failed, if it did. One that was refused has said so to who began it.
async fn ended(mut progress: watch::Receiver<LoadProgress>) -> Result<(), ServiceError> {
    let over = |progress: &LoadProgress| matches!(progress.state(), LoadState::Loaded | LoadState::Failed);
    match progress.wait_for(over).await {
        Ok(last) => last.error.as_ref().map_or(Ok(()), |error| Err(ServiceError::from_rpc(error))),
        Err(_) => Ok(()),
    }
}
