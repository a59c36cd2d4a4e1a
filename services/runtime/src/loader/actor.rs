//! The actor: the owner and only writer of the list of models. It answers each command at once; jobs do what takes
//! time.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use millm_kit::{ServiceError, Shutdown, panics};
use millm_proto::runtime::v1::{LoadProgress, LoadState, UnloadProgress};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::{
    admission::{Admission, admit},
    command::{Command, LoadReply, LoadRequest, Outcome},
    handle::{Loader, stopped},
    idle,
    load::LoadJob,
    loaded_model::{Entry, LoadedModel, Models, Phase, candidates},
    requests::{Activity, RequestCounter},
    unload::UnloadJob,
};

/// The owner of the list of models.
pub(super) struct Actor {
    models: watch::Sender<Models>,
    loader: Loader,
    tasks: TaskTracker,
    shutdown: Shutdown,
}

impl Actor {
    /// Returns an actor that publishes the list to `models` and runs jobs in `tasks`.
    pub fn new(
        models: watch::Sender<Models>,
        loader: Loader,
        tasks: TaskTracker,
        shutdown: Shutdown,
    ) -> Self {
        Self { models, loader, tasks, shutdown }
    }

    /// Carries out commands until shutdown, then unloads all models.
    pub async fn run(self, mut commands: mpsc::Receiver<Command>) {
        let stopping = self.shutdown.stopping.clone();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.handle(command),
                    None => return,
                },
                () = stopping.cancelled() => break,
            }
        }
        // Each round also unloads what a load has handed over in the meantime.
        loop {
            let ids: Vec<i64> = self.models.borrow().keys().copied().collect();
            for id in ids {
                // Fails for models that are loading or have failed, which need no unloading.
                let _ = self.unload(id, "", self.loader.options.drain);
            }
            if !self.models.borrow().values().any(|entry| entry.loaded_model().is_some()) {
                return;
            }
            match commands.recv().await {
                Some(Command::Load { reply, .. }) => drop(reply.send(Err(stopped()))),
                Some(command) => self.handle(command),
                None => return,
            }
        }
    }

    /// Carries out a command, also if its caller does not wait for the reply any more.
    fn handle(&self, command: Command) {
        match command {
            Command::Load { request, reply } => drop(reply.send(self.load(*request))),
            Command::Unload { id, handle, drain, reply } => {
                drop(reply.send(self.unload(id, &handle, drain)));
            }
            Command::UnloadIdle { id, seen, reply } => drop(reply.send(Ok(self.unload_idle(id, seen)))),
            Command::Rename { id, handle } => {
                self.models.send_if_modified(|models| match models.get_mut(&id) {
                    Some(entry) if entry.handle != handle => {
                        entry.handle = handle;
                        true
                    }
                    _ => false,
                });
            }
            Command::Commit { id, outcome, done } => {
                self.commit(id, outcome);
                let _ = done.send(());
            }
        }
    }

    fn load(&self, request: LoadRequest) -> Result<LoadReply, ServiceError> {
        let (id, handle) = (request.model.id, request.model.handle.clone());
        if admit(&candidates(&self.models.borrow()), id)? == Admission::Unloading {
            return Ok(LoadReply::Unloading);
        }
        let (progress, seen) = watch::channel(LoadProgress {
            model_id: id,
            handle: handle.clone(),
            state: LoadState::Loading.into(),
            ..LoadProgress::default()
        });
        let requests = RequestCounter::new();
        self.models.send_modify(|models| {
            models.retain(|_, entry| !matches!(entry.phase, Phase::Failed(_)));
            models.insert(id, Entry { handle, phase: Phase::Loading(seen, requests.clone()) });
        });
        let (started, first) = oneshot::channel();
        let job = LoadJob {
            loader: self.loader.clone(),
            request,
            requests,
            progress,
            shutdown: self.shutdown.clone(),
        };
        self.spawn(id, job.run(started));
        Ok(LoadReply::Started(first))
    }

    /// Runs a job. If it panics, its entry is removed, so that nobody waits for it forever.
    fn spawn(&self, id: i64, job: impl Future<Output = ()> + Send + 'static) {
        let loader = self.loader.clone();
        self.tasks.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(job).catch_unwind().await {
                tracing::error!(model_id = id, "a load or unload panicked: {}", panics::message(&*panic));
                loader.commit(id, Outcome::Refused).await;
            }
        });
    }

    fn unload(
        &self,
        id: i64,
        handle: &str,
        drain: Duration,
    ) -> Result<watch::Receiver<UnloadProgress>, ServiceError> {
        let model: Arc<LoadedModel> = match self.models.borrow().get(&id) {
            Some(Entry { phase: Phase::Loaded(model), .. }) => Arc::clone(model),
            Some(Entry { phase: Phase::Unloading(_, unload), .. }) => {
                unload.shorten(drain);
                return Ok(unload.progress.clone());
            }
            Some(Entry { phase: Phase::Loading(..), handle }) => return Err(ServiceError::loading(handle)),
            Some(Entry { phase: Phase::Failed(_), .. }) | None => {
                return Err(ServiceError::not_loaded(handle));
            }
        };
        let forced = self.shutdown.forced.clone();
        let (job, unload) = UnloadJob::new(self.loader.clone(), Arc::clone(&model), drain, forced);
        let progress = unload.progress.clone();
        self.models.send_modify(|models| {
            let handle = models.get(&id).map_or_else(|| model.handle.clone(), |entry| entry.handle.clone());
            models.insert(id, Entry { handle, phase: Phase::Unloading(model, unload) });
        });
        self.spawn(id, job.run());
        Ok(progress)
    }

    /// Unloads a model unless it was used since `seen`. Returns whether it unloads or is gone.
    fn unload_idle(&self, id: i64, seen: Activity) -> bool {
        let used = match self.models.borrow().get(&id) {
            Some(Entry { phase: Phase::Loaded(model), .. }) => model.requests.activity() != seen,
            _ => return true,
        };
        // A request that comes at this moment is waited for without a limit.
        !used && self.unload(id, "", Duration::MAX).is_ok()
    }

    fn commit(&self, id: i64, outcome: Outcome) {
        self.models.send_modify(|models| {
            let Some(entry) = models.get_mut(&id) else { return };
            match outcome {
                Outcome::Loaded(model) => {
                    let idle = idle::unload_when_idle(self.loader.clone(), &model);
                    self.tasks.spawn(self.shutdown.stopping.clone().run_until_cancelled_owned(idle));
                    entry.phase = Phase::Loaded(model);
                }
                Outcome::Failed(progress) => entry.phase = Phase::Failed(progress),
                Outcome::Refused | Outcome::Unloaded => drop(models.remove(&id)),
            }
        });
    }
}
