//! The owner of what is loaded: the only writer of [`Models`]. It decides at once and never waits; jobs wait.

use std::{sync::Arc, time::Duration};

use millm_kit::{ServiceError, Shutdown};
use millm_proto::runtime::v1::{LoadProgress, LoadState, UnloadProgress, load_progress::Stage};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::{
    Admitted, Loader, Order, Outcome, Plan,
    admission::{Admission, admit},
    entry::{Entry, Models, Phase, Resident, seats},
    gone, load, unload,
};

pub struct Actor {
    models: watch::Sender<Models>,
    loader: Loader,
    tasks: TaskTracker,
    shutdown: Shutdown,
}

impl Actor {
    pub fn new(
        models: watch::Sender<Models>,
        loader: Loader,
        tasks: TaskTracker,
        shutdown: Shutdown,
    ) -> Self {
        Self { models, loader, tasks, shutdown }
    }

    pub async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let stopping = self.shutdown.stopping.clone();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                () = stopping.cancelled() => break,
            }
        }
        // Everything leaves, also what a load hands over only now.
        loop {
            let loaded: Vec<i64> = self.models.borrow().keys().copied().collect();
            for id in loaded {
                // What is loading or has failed needs no unloading; what is unloading goes on.
                let _ = self.unload(id, "", self.loader.ground.drain);
            }
            if !self.models.borrow().values().any(|entry| entry.resident().is_some()) {
                return;
            }
            match orders.recv().await {
                Some(Order::Load { answer, .. }) => drop(answer.send(Err(gone()))),
                Some(order) => self.obey(order),
                None => return,
            }
        }
    }

    fn obey(&self, order: Order) {
        // Whoever asked may have left: the order is carried out all the same.
        match order {
            Order::Load { plan, answer } => drop(answer.send(self.load(*plan))),
            Order::Unload { id, handle, drain, answer } => {
                drop(answer.send(self.unload(id, &handle, drain)));
            }
            Order::Rename { id, handle } => {
                self.models.send_if_modified(|models| match models.get_mut(&id) {
                    Some(entry) if entry.handle != handle => {
                        entry.handle = handle;
                        true
                    }
                    _ => false,
                });
            }
            Order::Commit { id, outcome, done } => {
                self.commit(id, outcome);
                let _ = done.send(());
            }
        }
    }

    fn load(&self, plan: Plan) -> Result<Admitted, ServiceError> {
        let (id, handle) = (plan.model.id, plan.model.handle.clone());
        let admission = admit(seats(&self.models.borrow()), id, self.loader.ground.capacity)?;
        let Admission::Go { leaving } = admission else {
            return Ok(Admitted::Leaving);
        };
        let stage = if leaving.is_empty() { Stage::Reading } else { Stage::UnloadingPrevious };
        let (progress, seen) = watch::channel(LoadProgress {
            model_id: id,
            handle: handle.clone(),
            state: LoadState::Loading.into(),
            stage: stage.into(),
            ..LoadProgress::default()
        });
        self.models.send_modify(|models| {
            models.retain(|_, entry| !matches!(entry.phase, Phase::Failed(_)));
            models.insert(id, Entry { handle, phase: Phase::Loading(seen) });
        });
        let (accepted, first) = oneshot::channel();
        let job = load::Job {
            loader: self.loader.clone(),
            plan,
            leaving,
            progress,
            shutdown: self.shutdown.clone(),
        };
        self.tasks.spawn(job.run(accepted));
        Ok(Admitted::Begun(first))
    }

    fn unload(
        &self,
        id: i64,
        handle: &str,
        drain: Duration,
    ) -> Result<watch::Receiver<UnloadProgress>, ServiceError> {
        let resident: Arc<Resident> = match self.models.borrow().get(&id) {
            Some(Entry { phase: Phase::Loaded(resident), .. }) => Arc::clone(resident),
            Some(Entry { phase: Phase::Unloading(_, seen), .. }) => return Ok(seen.clone()),
            Some(Entry { phase: Phase::Loading(_), handle }) => return Err(ServiceError::loading(handle)),
            Some(Entry { phase: Phase::Failed(_), .. }) | None => {
                return Err(ServiceError::not_loaded(handle));
            }
        };
        let (progress, seen) = watch::channel(UnloadProgress {
            model_id: id,
            handle: resident.handle.clone(),
            state: LoadState::Unloading.into(),
            pending_requests: resident.requests.pending() as u32,
            freed_bytes: 0,
        });
        self.models.send_modify(|models| {
            let phase = Phase::Unloading(Arc::clone(&resident), seen.clone());
            models.insert(id, Entry { handle: resident.handle.clone(), phase });
        });
        let forced = self.shutdown.forced.clone();
        let job = unload::Job { loader: self.loader.clone(), resident, drain, progress, forced };
        self.tasks.spawn(job.run());
        Ok(seen)
    }

    fn commit(&self, id: i64, outcome: Outcome) {
        self.models.send_modify(|models| {
            let Some(entry) = models.get_mut(&id) else { return };
            match outcome {
                Outcome::Loaded(resident) => entry.phase = Phase::Loaded(resident),
                Outcome::Failed(progress) => entry.phase = Phase::Failed(progress),
                Outcome::Refused | Outcome::Unloaded => drop(models.remove(&id)),
            }
        });
    }
}
