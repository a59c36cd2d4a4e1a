//! The handle of the loader: sends commands to the actor and watches its list of models.

use std::{sync::Arc, time::Duration};

use millm_kit::ServiceError;
use millm_proto::runtime::v1::{LoadProgress, UnloadProgress};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    admission::{self, Eviction, MemoryDemand},
    command::{Command, LoadReply, LoadRequest, Outcome, Reply},
    loaded_model::{Entry, Models, Phase, candidates},
    memory_meter::MemoryMeter,
    requests::Activity,
};
use crate::options::LoaderOptions;

/// The handle of the loader. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Loader {
    commands: mpsc::Sender<Command>,
    pub(super) models: watch::Receiver<Models>,
    /// The options of all loads.
    pub options: Arc<LoaderOptions>,
    pub(super) memory_meter: Arc<MemoryMeter>,
    /// Limits the requests that wait for models to load.
    pub(super) waiting: Arc<Semaphore>,
    /// Serializes the loads on demand.
    pub(super) demand_turn: Arc<Semaphore>,
}

impl Loader {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        models: watch::Receiver<Models>,
        options: LoaderOptions,
    ) -> Self {
        Self {
            commands,
            models,
            memory_meter: Arc::new(MemoryMeter::new(Arc::clone(&options.devices))),
            waiting: Arc::new(Semaphore::new((options.slots + options.queue_size) as usize)),
            demand_turn: Arc::new(Semaphore::new(1)),
            options: Arc::new(options),
        }
    }

    /// Returns a receiver of the list of models.
    pub fn models(&self) -> watch::Receiver<Models> {
        self.models.clone()
    }

    /// Starts a load.
    ///
    /// The last value of the receiver is LOADED or FAILED. Dropping it does not cancel the load.
    ///
    /// # Errors
    ///
    /// MODEL_ALREADY_LOADED, MODEL_LOADING, INSUFFICIENT_MEMORY, or the error of a file that cannot be read.
    pub async fn load(&self, request: LoadRequest) -> Result<watch::Receiver<LoadProgress>, ServiceError> {
        loop {
            let id = request.model.id;
            let is_unloading =
                |models: &Models| matches!(models.get(&id), Some(Entry { phase: Phase::Unloading(..), .. }));
            self.models().wait_for(|models| !is_unloading(models)).await.map_err(|_| stopped())?;
            let request = Box::new(request.clone());
            match self.send(|reply| Command::Load { request, reply }).await? {
                LoadReply::Started(first) => return first.await.map_err(|_| stopped())?,
                LoadReply::Unloading => {}
            }
        }
    }

    /// Starts to unload a model, or shortens the wait of an unload that runs.
    ///
    /// `handle` names the model in errors. The last value of the receiver is UNLOADED.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_LOADED, or MODEL_LOADING while it loads.
    pub async fn unload(
        &self,
        id: i64,
        handle: String,
        drain: Duration,
    ) -> Result<watch::Receiver<UnloadProgress>, ServiceError> {
        self.send(|reply| Command::Unload { id, handle, drain, reply }).await
    }

    /// Returns the models that would be evicted now to load model `id` of `bytes` bytes, and the memory it would have.
    pub fn eviction(&self, id: i64, bytes: u64) -> Eviction {
        let demand =
            MemoryDemand { max_models: self.options.max_models, bytes, free: self.options.devices.free() };
        admission::choose_evictions(candidates(&self.models.borrow()), id, demand)
    }

    /// Unloads a model unless it was used since `seen`. Returns whether it unloads or is gone.
    pub(super) async fn unload_idle(&self, id: i64, seen: Activity) -> bool {
        // An actor that has ended unloads everything.
        self.send(|reply| Command::UnloadIdle { id, seen, reply }).await.unwrap_or(true)
    }

    /// Changes the handle under which a model is listed.
    pub async fn rename(&self, id: i64, handle: String) {
        // An actor that has ended lists nothing.
        let _ = self.commands.send(Command::Rename { id, handle }).await;
    }

    /// Reports the end of a job, and waits until it is visible to all.
    pub(super) async fn commit(&self, id: i64, outcome: Outcome) {
        let (done, visible) = oneshot::channel();
        if self.commands.send(Command::Commit { id, outcome, done }).await.is_ok() {
            // An actor that has ended shows nothing.
            let _ = visible.await;
        }
    }

    async fn send<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ServiceError> {
        let (reply, replied) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| stopped())?;
        replied.await.map_err(|_| stopped())?
    }
}

/// Returns the error of a loader that has stopped.
pub(super) fn stopped() -> ServiceError {
    ServiceError::service_unavailable("runtime")
}
