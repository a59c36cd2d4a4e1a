//! Loading and unloading: requests, progress, and the memory that a load takes.

use millm_proto::runtime::v1::{self as runtime, load_progress::Stage};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{megabytes, percent, some};

/// The body of `POST /api/models/{id}/load`, which is optional.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct LoadRequest {
    /// Loads the model even if the estimate exceeds the free memory.
    pub allow_insufficient_memory: Option<bool>,
    /// Maximum tokens of a request, prompt and output together; the server's setting unless given.
    #[schema(minimum = 1, maximum = 4_294_967_295_u64)]
    pub context_length: Option<i64>,
}

/// The query of `GET /api/models/{id}/memory`.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MemoryQuery {
    /// Maximum tokens of a request, prompt and output together; the server's setting unless given.
    pub context_length: Option<u32>,
}

/// The state of a model in the Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadState {
    /// Not known.
    Unknown,
    /// Being loaded into memory.
    Loading,
    /// In memory; answers requests.
    Loaded,
    /// Being unloaded, after the running requests have ended.
    Unloading,
    /// Not in memory.
    Unloaded,
    /// The last load failed.
    Failed,
}

impl LoadState {
    /// Returns the state's name in JSON.
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

/// The stage of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadStage {
    /// Not known yet.
    Unknown,
    /// Unloads another model to free memory.
    UnloadingPrevious,
    /// Reads config and tokenizer.
    Reading,
    /// Reads the weights.
    LoadingWeights,
    /// Generates a first token.
    WarmingUp,
    /// The load is complete.
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

/// The progress of a load: an event of `/api/events`, a line of `millm load --json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LoadProgress {
    /// The model's id.
    pub model_id: i64,
    /// The model's name.
    pub name: String,
    /// The model's state: `loading` until the load has ended.
    pub state: LoadState,
    /// The current stage.
    pub stage: LoadStage,
    /// Progress from 0 to 100.
    pub progress: f64,
    /// The current stage as text.
    pub detail: String,
    /// The most bytes of memory that the model will take; null until they are estimated.
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

/// The progress of an unload: an event of `/api/events`, a line of `millm unload --json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct UnloadProgress {
    /// The model's id.
    pub model_id: i64,
    /// The model's name.
    pub name: String,
    /// The model's state: `unloading` until the unload has ended.
    pub state: LoadState,
    /// Requests that are still running.
    pub pending_requests: u32,
    /// Bytes of memory that were freed; 0 until the unload has ended.
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

/// The most memory that a model will take, and the memory that is available.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MemoryEstimate {
    /// Bytes of the weights.
    pub weights_bytes: i64,
    /// Bytes of the KV cache when it is full.
    pub kv_cache_bytes: i64,
    /// Bytes of activations.
    pub activations_bytes: i64,
    /// Bytes of the tokenizer and everything else.
    pub overhead_bytes: i64,
    /// The sum in bytes.
    pub total_bytes: i64,
    /// The sum in decimal megabytes.
    pub total_mb: i64,
    /// The device that the model would run on: `cpu`, `cuda:0`.
    pub device: String,
    /// Bytes that are free now, including the memory of models that would be unloaded first.
    pub available_bytes: i64,
    /// The available memory in decimal megabytes.
    pub available_mb: i64,
    /// True if the model fits into the available memory.
    pub fits: bool,
    /// A sentence for users, if the model does not fit.
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
