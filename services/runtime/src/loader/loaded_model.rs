//! The list of models: one entry for each model that is loading, loaded, unloading, or failed to load.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use millm_engine::Engine;
use millm_proto::runtime::v1::{LoadProgress, LoadState, MemoryEstimate, UnloadProgress};
use tokio::{sync::watch, time::Instant};

use super::{admission::EvictionCandidate, memory_meter::ModelMemory, requests::RequestCounter};
use crate::tokenizer_bundle::TokenizerBundle;

/// The entries by model id.
pub(crate) type Models = BTreeMap<i64, Entry>;

/// A model in the list.
#[derive(Clone)]
pub(crate) struct Entry {
    /// The model's handle now.
    pub handle: String,
    pub phase: Phase,
}

/// The phase of a model, from its load to its unload.
#[derive(Clone)]
pub(crate) enum Phase {
    /// With the requests that wait for the model.
    Loading(watch::Receiver<LoadProgress>, RequestCounter),
    Loaded(Arc<LoadedModel>),
    Unloading(Arc<LoadedModel>, UnloadHandle),
    /// Listed until the next load begins.
    Failed(Box<LoadProgress>),
}

impl Entry {
    /// Returns the model if it is in memory.
    pub fn loaded_model(&self) -> Option<&Arc<LoadedModel>> {
        match &self.phase {
            Phase::Loaded(model) | Phase::Unloading(model, _) => Some(model),
            Phase::Loading(..) | Phase::Failed(_) => None,
        }
    }

    /// Returns the phase as the API has it.
    pub fn state(&self) -> LoadState {
        match &self.phase {
            Phase::Loading(..) => LoadState::Loading,
            Phase::Loaded(_) => LoadState::Loaded,
            Phase::Unloading(..) => LoadState::Unloading,
            Phase::Failed(_) => LoadState::Failed,
        }
    }
}

/// Returns the facts of all entries that admission and eviction depend on.
pub(crate) fn candidates(models: &Models) -> Vec<EvictionCandidate> {
    let candidate = |(id, entry): (&i64, &Entry)| {
        let model = entry.loaded_model();
        EvictionCandidate {
            id: *id,
            handle: entry.handle.clone(),
            state: entry.state(),
            bytes: model.map_or(0, |model| model.used_bytes()),
            reserved: model.map_or(0, |model| model.reserved_bytes()),
            in_use: model.is_some_and(|model| model.requests.activity().count > 0),
            last_used: model.map_or(SystemTime::UNIX_EPOCH, |model| model.last_used()),
        }
    };
    models.iter().map(candidate).collect()
}

/// A model in memory, with everything that requests need.
pub(crate) struct LoadedModel {
    pub id: i64,
    /// The model's handle when it was loaded.
    pub handle: String,
    pub engine: Engine,
    pub tokenizer: Arc<TokenizerBundle>,
    /// Tokens of a request, prompt and output.
    pub context_length: u32,
    /// Requests that run at the same time.
    pub slots: u32,
    /// Draft tokens per step unless a request says otherwise.
    pub max_draft_tokens: u32,
    pub estimate: MemoryEstimate,
    pub load_time: SystemTime,
    pub memory: ModelMemory,
    /// Requests on their way to the engine, waiting, or running.
    pub requests: RequestCounter,
}

impl LoadedModel {
    /// Returns when the model was last used. Loading counts as use.
    pub fn last_used(&self) -> SystemTime {
        self.requests.activity().last_used.unwrap_or(self.load_time)
    }

    /// Returns the bytes that unloading would free.
    pub fn used_bytes(&self) -> u64 {
        match self.memory.peak_bytes() {
            0 => self.estimate.total_bytes as u64,
            peak => peak,
        }
    }

    /// Returns the bytes that the model may still allocate: the system provides a KV cache's memory as it fills.
    pub fn reserved_bytes(&self) -> u64 {
        (self.estimate.total_bytes as u64).saturating_sub(self.used_bytes())
    }
}

/// A running unload, for everybody but its job.
#[derive(Clone)]
pub(crate) struct UnloadHandle {
    pub progress: watch::Receiver<UnloadProgress>,
    /// The time at which running requests are cancelled; `None` has no limit.
    deadline: watch::Sender<Option<Instant>>,
}

impl UnloadHandle {
    /// Returns a handle that waits for requests at most `drain`, and a receiver of its deadline.
    pub fn new(
        progress: watch::Receiver<UnloadProgress>,
        drain: Duration,
    ) -> (Self, watch::Receiver<Option<Instant>>) {
        let (deadline, watched) = watch::channel(Instant::now().checked_add(drain));
        (Self { progress, deadline }, watched)
    }

    /// Shortens the wait to at most `drain` from now.
    pub fn shorten(&self, drain: Duration) {
        let Some(sooner) = Instant::now().checked_add(drain) else { return };
        self.deadline.send_if_modified(|deadline| {
            let is_later = deadline.is_none_or(|deadline| deadline > sooner);
            if is_later {
                *deadline = Some(sooner);
            }
            is_later
        });
    }
}
