//! Loading and unloading. One task owns what is loaded ([`actor`]); this is its handle: others send it orders
//! and hold a receiver of its state. Jobs ([`load`], [`unload`]) do the long work and report back to it. Requests
//! find their model by [`Loader::place`], which waits for it in [`demand`] where that is allowed.

mod actor;
mod admission;
mod demand;
mod entry;
mod idle;
mod load;
mod scale;
mod unload;

use std::{sync::Arc, time::Duration};

use millm_kit::{ServiceError, Settings, Shutdown, settings::KeepAlive};
use millm_proto::{
    catalog::v1::Model,
    runtime::v1::{LoadProgress, UnloadProgress},
};
use millm_sandbox::Sandbox;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use self::{
    admission::{Need, Room},
    entry::Active,
    scale::Scale,
};
use crate::devices::Devices;
pub use demand::Place;
pub use entry::{Entry, Models, Phase, Requests, Resident, Turn};
pub use load::Read;
#[cfg(test)]
pub use load::read;

/// Orders that may wait for the owner; each is answered without delay.
const ORDERS: usize = 64;

/// What to load and how.
#[derive(Debug, Clone)]
pub struct Plan {
    pub model: Model,
    /// The server's setting unless given; at most the model's.
    pub context_length: Option<u32>,
    pub allow_insufficient_memory: bool,
    /// For the requests of a model that must leave; [`Duration::MAX`] is without end.
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
    /// Whether requests have models loaded, and how long they wait for it.
    pub on_demand: bool,
    pub load_timeout: Duration,
    pub keep_alive: KeepAlive,
    /// Where strangers' programs run.
    pub sandbox: Sandbox,
    /// The way a model gets into memory.
    pub read: Read,
    /// Has the allocator return to the system what a model leaves behind.
    pub give_back: fn(),
}

impl Ground {
    pub fn new(settings: &Settings, devices: Arc<Devices>, sandbox: Sandbox) -> Self {
        Self {
            devices,
            context_length: settings.context_length,
            slots: settings.parallel_requests.max(1),
            kv_tokens: settings.kv_cache_tokens,
            speculate: settings.speculate,
            queue: settings.queue_size.max(1),
            threads: settings.threads,
            drain: settings.drain_timeout,
            capacity: settings.max_loaded_models.max(1) as usize,
            on_demand: settings.load_on_demand,
            load_timeout: settings.load_timeout,
            keep_alive: settings.keep_alive,
            sandbox,
            read: load::read,
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
    /// Unloads it if nobody has used it since.
    Retire {
        id: i64,
        seen: Active,
        answer: Answer<bool>,
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
    scale: Arc<Scale>,
    /// Requests that may wait for models to be loaded.
    waiting: Arc<Semaphore>,
    /// One load on demand begins after the other.
    loads: Arc<Semaphore>,
}

impl Loader {
    /// Starts the owner in `tasks`. It ends at `shutdown`, when everything is unloaded.
    pub fn start(ground: Ground, tasks: &TaskTracker, shutdown: &Shutdown) -> Self {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (publish, state) = watch::channel(Models::new());
        let loader = Self {
            orders,
            state,
            scale: Arc::new(Scale::new(Arc::clone(&ground.devices))),
            waiting: Arc::new(Semaphore::new((ground.slots + ground.queue) as usize)),
            loads: Arc::new(Semaphore::new(1)),
            ground: Arc::new(ground),
        };
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

    /// Who would leave for model `id` of `bytes` bytes now, and what there would be for it then.
    pub fn room(&self, id: i64, bytes: u64) -> Room {
        let free = self.ground.devices.free();
        let need = Need { capacity: self.ground.capacity, bytes, free };
        admission::room(entry::seats(&self.state.borrow()), id, need)
    }

    /// Unloads a model that was `seen` idle, unless it was used since. Whether it leaves, or has left.
    async fn retire(&self, id: i64, seen: Active) -> bool {
        // An owner that has ended unloads everything.
        self.order(|answer| Order::Retire { id, seen, answer }).await.unwrap_or(true)
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
