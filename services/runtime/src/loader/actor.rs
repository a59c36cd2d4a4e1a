//! The owner of what is loaded: the only writer of [`Models`]. It decides at once and never waits; jobs wait.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use millm_kit::{ServiceError, Shutdown, panics};
use millm_proto::runtime::v1::{LoadProgress, LoadState, UnloadProgress};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::{
    Admitted, Loader, Order, Outcome, Plan,
    admission::{Admission, admit},
    entry::{Active, Entry, Models, Phase, Requests, Resident, seats},
    gone, idle, load, unload,
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
            Order::Retire { id, seen, answer } => drop(answer.send(Ok(self.retire(id, seen)))),
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
        if admit(&seats(&self.models.borrow()), id)? == Admission::Wait {
            return Ok(Admitted::Leaving);
        }
        let (progress, seen) = watch::channel(LoadProgress {
            model_id: id,
            handle: handle.clone(),
            state: LoadState::Loading.into(),
            ..LoadProgress::default()
        });
        let requests = Requests::new();
        self.models.send_modify(|models| {
            models.retain(|_, entry| !matches!(entry.phase, Phase::Failed(_)));
            models.insert(id, Entry { handle, phase: Phase::Loading(seen, requests.clone()) });
        });
        let (accepted, first) = oneshot::channel();
        let job = load::Job {
            loader: self.loader.clone(),
            plan,
            requests,
            progress,
            shutdown: self.shutdown.clone(),
        };
        self.spawn(id, job.run(accepted));
        Ok(Admitted::Begun(first))
    }

    /// A job that panics leaves nothing behind: others would wait for it without end.
    fn spawn(&self, id: i64, job: impl Future<Output = ()> + Send + 'static) {
        let loader = self.loader.clone();
        self.tasks.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(job).catch_unwind().await {
                tracing::error!(model_id = id, "a job panicked: {}", panics::said(&*panic));
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
        let resident: Arc<Resident> = match self.models.borrow().get(&id) {
            Some(Entry { phase: Phase::Loaded(resident), .. }) => Arc::clone(resident),
            Some(Entry { phase: Phase::Unloading(_, departure), .. }) => {
                departure.hasten(drain);
                return Ok(departure.progress.clone());
            }
            Some(Entry { phase: Phase::Loading(..), handle }) => return Err(ServiceError::loading(handle)),
            Some(Entry { phase: Phase::Failed(_), .. }) | None => {
                return Err(ServiceError::not_loaded(handle));
            }
        };
        let forced = self.shutdown.forced.clone();
        let (job, departure) = unload::begin(self.loader.clone(), Arc::clone(&resident), drain, forced);
        let seen = departure.progress.clone();
        self.models.send_modify(|models| {
            let handle =
                models.get(&id).map_or_else(|| resident.handle.clone(), |entry| entry.handle.clone());
            models.insert(id, Entry { handle, phase: Phase::Unloading(resident, departure) });
        });
        self.spawn(id, job.run());
        Ok(seen)
    }

    /// Unloads a model that nobody has used since it was `seen` idle; whether it leaves or is gone.
    fn retire(&self, id: i64, seen: Active) -> bool {
        let used = match self.models.borrow().get(&id) {
            Some(Entry { phase: Phase::Loaded(resident), .. }) => resident.requests.now() != seen,
            _ => return true,
        };
        // A request that comes at this very moment is waited for.
        !used && self.unload(id, "", Duration::MAX).is_ok()
    }

    fn commit(&self, id: i64, outcome: Outcome) {
        self.models.send_modify(|models| {
            let Some(entry) = models.get_mut(&id) else { return };
            match outcome {
                Outcome::Loaded(resident) => {
                    let idle = idle::watch(self.loader.clone(), &resident);
                    self.tasks.spawn(self.shutdown.stopping.clone().run_until_cancelled_owned(idle));
                    entry.phase = Phase::Loaded(resident);
                }
                Outcome::Failed(progress) => entry.phase = Phase::Failed(progress),
                Outcome::Refused | Outcome::Unloaded => drop(models.remove(&id)),
            }
        });
    }
}
