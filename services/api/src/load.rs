//! Loading and unloading: requests, progress, and the memory that a load takes.

use millm_proto::runtime::v1::{self as runtime, load_progress::Stage};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{megabytes, percent, some};

/// The body of `POST /api/models/{id}/load`; it may be missing.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct LoadRequest {
    /// Loads although the estimate exceeds the free memory.
    pub allow_insufficient_memory: Option<bool>,
    /// Tokens that a request may hold; the server's setting unless given.
    #[schema(minimum = 1, maximum = 4_294_967_295_u64)]
    pub context_length: Option<i64>,
}

/// The query of `GET /api/models/{id}/memory`.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MemoryQuery {
    /// Tokens that a request may hold; the server's setting unless given.
    pub context_length: Option<u32>,
}

/// Whether a model is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadState {
    /// Not known.
    Unknown,
    /// On its way into memory.
    Loading,
    /// In memory; answers requests.
    Loaded,
    /// On its way out: running requests end first.
    Unloading,
    /// Not in memory.
    Unloaded,
    /// Its last load failed.
    Failed,
}

impl LoadState {
    /// Returns the word, as JSON has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Loading => "loading",
            Self::Loaded => "loaded",
            Self::Unloading => "unloading",
            Self::Unloaded => "unloaded",
            Self::Failed => "failed",
        }
    }
}

impl From<runtime::LoadState> for LoadState {
    fn from(state: runtime::LoadState) -> Self {
        match state {
            runtime::LoadState::Unspecified => Self::Unknown,
            runtime::LoadState::Loading => Self::Loading,
            runtime::LoadState::Loaded => Self::Loaded,
            runtime::LoadState::Unloading => Self::Unloading,
            runtime::LoadState::Unloaded => Self::Unloaded,
            runtime::LoadState::Failed => Self::Failed,
        }
    }
}

/// The steps of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadStage {
    /// Not known yet.
    Unknown,
    /// Another model makes room.
    UnloadingPrevious,
    /// Reads config and tokenizer.
    Reading,
    /// Reads the weights.
    LoadingWeights,
    /// Runs a first token.
    WarmingUp,
    /// Is complete.
    Done,
}

impl From<Stage> for LoadStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Unspecified => Self::Unknown,
            Stage::UnloadingPrevious => Self::UnloadingPrevious,
            Stage::Reading => Self::Reading,
            Stage::LoadingWeights => Self::LoadingWeights,
            Stage::WarmingUp => Self::WarmingUp,
            Stage::Done => Self::Done,
        }
    }
}

/// How far a load is: an event of `/api/events`, a line of `millm load --json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LoadProgress {
    /// The model.
    pub model_id: i64,
    /// The model's name.
    pub name: String,
    /// `loading` until it has ended.
    pub state: LoadState,
    /// The present step.
    pub stage: LoadStage,
    /// 0 to 100.
    pub progress: f64,
    /// The present step, for people.
    pub detail: String,
    /// Bytes of memory that it will take; null until they are estimated.
    pub estimated_memory_bytes: Option<i64>,
}

impl From<&runtime::LoadProgress> for LoadProgress {
    fn from(p: &runtime::LoadProgress) -> Self {
        Self {
            model_id: p.model_id,
            name: p.handle.clone(),
            state: p.state().into(),
            stage: p.stage().into(),
            progress: percent(p.fraction),
            detail: p.detail.clone(),
            estimated_memory_bytes: p.estimate.as_ref().map(|estimate| estimate.total_bytes),
        }
    }
}

/// How far an unload is: an event of `/api/events`, a line of `millm unload --json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct UnloadProgress {
    /// The model.
    pub model_id: i64,
    /// The model's name.
    pub name: String,
    /// `unloading` until it has ended.
    pub state: LoadState,
    /// Requests that still run.
    pub pending_requests: u32,
    /// Bytes of memory that were freed; 0 until it has ended.
    pub freed_bytes: i64,
}

impl From<&runtime::UnloadProgress> for UnloadProgress {
    fn from(p: &runtime::UnloadProgress) -> Self {
        Self {
            model_id: p.model_id,
            name: p.handle.clone(),
            state: p.state().into(),
            pending_requests: p.pending_requests,
            freed_bytes: p.freed_bytes,
        }
    }
}

/// What loading a model takes of memory, against what is free.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MemoryEstimate {
    /// The weights.
    pub weights_bytes: i64,
    /// The KV cache for the context.
    pub kv_cache_bytes: i64,
    /// Intermediate results.
    pub activations_bytes: i64,
    /// The tokenizer and everything else.
    pub overhead_bytes: i64,
    /// All of them.
    pub total_bytes: i64,
    /// Decimal megabytes of all of them.
    pub total_mb: i64,
    /// Where it would run: `cpu`, `cuda:0`.
    pub device: String,
    /// Free now, with what the models give back that would be unloaded first.
    pub available_bytes: i64,
    /// Decimal megabytes of it.
    pub available_mb: i64,
    /// Whether it fits.
    pub fits: bool,
    /// For people, when it does not.
    pub warning: Option<String>,
}

impl From<&runtime::MemoryEstimate> for MemoryEstimate {
    fn from(e: &runtime::MemoryEstimate) -> Self {
        Self {
            weights_bytes: e.weights_bytes,
            kv_cache_bytes: e.kv_cache_bytes,
            activations_bytes: e.activations_bytes,
            overhead_bytes: e.overhead_bytes,
            total_bytes: e.total_bytes,
            total_mb: megabytes(e.total_bytes),
            device: e.device.clone(),
            available_bytes: e.available_bytes,
            available_mb: megabytes(e.available_bytes),
            fits: e.fits,
            warning: some(&e.warning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_json() {
        for state in (0..=5).map(|n| runtime::LoadState::try_from(n).unwrap()) {
            let state = LoadState::from(state);
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
