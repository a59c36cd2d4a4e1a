//! Loading and unloading. One task owns what is loaded ([`actor`]); this is its handle: others send it orders
//! and hold a receiver of its state. Jobs ([`load`], [`unload`]) do the long work and report back to it.

mod actor;
mod admission;
mod entry;
mod load;
mod meter;
mod unload;

use std::{sync::Arc, time::Duration};

use millm_kit::{ServiceError, Settings, Shutdown};
use millm_proto::{
    catalog::v1::Model,
    runtime::v1::{LoadProgress, UnloadProgress},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::devices::Devices;
pub use entry::{Entry, Models, Phase, Requests, Resident, Turn};

/// Orders that may wait for the owner; each is answered without delay.
const ORDERS: usize = 64;

/// What to load and how.
#[derive(Debug, Clone)]
pub struct Plan {
    pub model: Model,
    /// The server's setting unless given; at most the model's.
    pub context_length: Option<u32>,
    pub allow_insufficient_memory: bool,
    /// For the requests of a model that must leave.
    pub drain: Duration,
}

/// What is the same for all loads.
pub struct Ground {
    pub devices: Arc<Devices>,
    pub context_length: u32,
    pub slots: u32,
    /// In the KV cache, for all requests together; 0 is a whole context for each.
    pub kv_tokens: u32,
    /// Tokens guessed ahead unless a request says otherwise.
    pub speculate: u32,
    pub queue: u32,
    pub threads: u32,
    pub drain: Duration,
    /// Models in memory at once.
    pub capacity: usize,
    /// Has the allocator return to the system what a model leaves behind.
    pub give_back: fn(),
}

impl Ground {
    pub fn new(settings: &Settings, devices: Arc<Devices>) -> Self {
        Self {
            devices,
            context_length: settings.context_length,
            slots: settings.parallel_requests.max(1),
            kv_tokens: settings.kv_cache_tokens,
            speculate: settings.speculate,
            queue: settings.queue_size.max(1),
            threads: settings.threads,
            drain: settings.drain_timeout,
            capacity: 1,
            give_back: || {},
        }
    }
}

type Answer<T> = oneshot::Sender<Result<T, ServiceError>>;

enum Order {
    Load {
        plan: Box<Plan>,
        answer: Answer<Admitted>,
    },
    Unload {
        id: i64,
        handle: String,
        drain: Duration,
        answer: Answer<watch::Receiver<UnloadProgress>>,
    },
    Rename {
        id: i64,
        handle: String,
    },
    /// A job has ended; `done` when everybody can see it.
    Commit {
        id: i64,
        outcome: Outcome,
        done: oneshot::Sender<()>,
    },
}

enum Admitted {
    /// The load runs; its first answer comes when the checkpoint has been looked at.
    Begun(oneshot::Receiver<Result<watch::Receiver<LoadProgress>, ServiceError>>),
    /// The model is just being unloaded: ask again when that is done.
    Leaving,
}

enum Outcome {
    Loaded(Arc<Resident>),
    /// Nothing was changed.
    Refused,
    Failed(Box<LoadProgress>),
    Unloaded,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Loader {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<Models>,
    pub ground: Arc<Ground>,
}

impl Loader {
    /// Starts the owner in `tasks`. It ends at `shutdown`, when everything is unloaded.
    pub fn start(ground: Ground, tasks: &TaskTracker, shutdown: &Shutdown) -> Self {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (publish, state) = watch::channel(Models::new());
        let loader = Self { orders, state, ground: Arc::new(ground) };
        let actor = actor::Actor::new(publish, loader.clone(), tasks.clone(), shutdown.clone());
        tasks.spawn(actor.run(inbox));
        loader
    }

    /// What is loaded, now and as it changes.
    pub fn state(&self) -> watch::Receiver<Models> {
        self.state.clone()
    }

    /// Starts a load, or says why not: MODEL_ALREADY_LOADED, MODEL_LOADING, INSUFFICIENT_MEMORY, or whatever is
    /// wrong with the files. The receiver's last value is LOADED or FAILED; dropping it changes nothing.
    pub async fn load(&self, plan: Plan) -> Result<watch::Receiver<LoadProgress>, ServiceError> {
        loop {
            let id = plan.model.id;
            let leaving =
                |models: &Models| matches!(models.get(&id), Some(Entry { phase: Phase::Unloading(..), .. }));
            self.state().wait_for(|models| !leaving(models)).await.map_err(|_| gone())?;
            let plan = Box::new(plan.clone());
            match self.order(|answer| Order::Load { plan, answer }).await? {
                Admitted::Begun(first) => return first.await.map_err(|_| gone())?,
                Admitted::Leaving => {}
            }
        }
    }

    /// Starts unloading, or joins an unloading that runs. The receiver's last value is UNLOADED.
    pub async fn unload(
        &self,
        (id, handle): (i64, String),
        drain: Duration,
    ) -> Result<watch::Receiver<UnloadProgress>, ServiceError> {
        self.order(|answer| Order::Unload { id, handle, drain, answer }).await
    }

    /// What model `id` could use beyond what is free: what those that leave for it give back.
    pub fn given_back_bytes(&self, id: i64) -> u64 {
        let seats = entry::seats(&self.state.borrow());
        admission::leaving(seats, id, self.ground.capacity).iter().map(|seat| seat.bytes).sum()
    }

    /// A loaded model is called otherwise now.
    pub async fn rename(&self, id: i64, handle: String) {
        // An owner that has ended needs no names.
        let _ = self.orders.send(Order::Rename { id, handle }).await;
    }

    async fn commit(&self, id: i64, outcome: Outcome) {
        let (done, seen) = oneshot::channel();
        if self.orders.send(Order::Commit { id, outcome, done }).await.is_ok() {
            // An owner that has ended shows nothing to anybody.
            let _ = seen.await;
        }
    }

    async fn order<T>(&self, make: impl FnOnce(Answer<T>) -> Order) -> Result<T, ServiceError> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(make(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn gone() -> ServiceError {
    ServiceError::service_unavailable("runtime")
}
