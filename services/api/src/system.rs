//! Devices and the models in memory: `GET /api/system` and `millm ps --json`.

use millm_proto::runtime::v1 as runtime;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{download::Download, hub::Hub, load::LoadState, time};

/// `GET /api/system`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct System {
    /// The gateway's version.
    pub version: &'static str,
    /// The devices and their memory.
    pub devices: Vec<Device>,
    /// Models that are loading, loaded or unloading, or whose last load failed.
    pub models: Vec<LoadedModel>,
    /// Resident memory of the Runtime's process in bytes.
    pub process_memory_bytes: i64,
    /// The number of registered models.
    pub model_count: usize,
    /// Bytes on disk of downloaded models.
    pub cache_size_bytes: i64,
    /// The state of the connection to the hub; null while the Downloader does not answer.
    pub hub: Option<Hub>,
}

/// `millm ps --json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Activity {
    /// Models that are loading, loaded or unloading, or whose last load failed.
    pub models: Vec<LoadedModel>,
    /// The devices and their memory.
    pub devices: Vec<Device>,
    /// Downloads that are queued or running.
    pub downloads: Vec<Download>,
    /// Resident memory of the Runtime's process in bytes.
    pub process_memory_bytes: i64,
}

/// A device that models run on.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Device {
    /// The device's id: `cpu`, `cuda:0`.
    pub id: String,
    /// The vendor's name of the device.
    pub name: String,
    /// The device's memory in bytes.
    pub total_bytes: i64,
    /// Bytes that all programs use.
    pub used_bytes: i64,
    /// Bytes that are free for models.
    pub free_bytes: i64,
}

impl From<&runtime::Device> for Device {
    fn from(device: &runtime::Device) -> Self {
        Self {
            id: device.id.clone(),
            name: device.name.clone(),
            total_bytes: device.total_bytes,
            used_bytes: device.used_bytes,
            free_bytes: device.free_bytes,
        }
    }
}

/// A model that is loading, loaded or unloading, or whose last load failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LoadedModel {
    /// The model's id.
    pub model_id: i64,
    /// The model's name.
    pub name: String,
    /// The model's state.
    pub state: LoadState,
    /// The device that the model runs on.
    pub device: String,
    /// Maximum tokens of a request, prompt and output together.
    pub context_length: u32,
    /// Maximum requests that run at the same time.
    pub slots: u32,
    /// Requests that are running.
    pub running_requests: u32,
    /// Requests that wait for a slot.
    pub waiting_requests: u32,
    /// The most bytes of memory that the model takes, estimated before it was loaded.
    pub estimated_memory_bytes: i64,
    /// The peak of the model's memory since it was loaded, in bytes.
    pub measured_memory_bytes: i64,
    /// The time of the load (RFC 3339).
    pub loaded_at: Option<String>,
    /// The time of the last request (RFC 3339).
    pub last_used_at: Option<String>,
    /// Forward passes since the load.
    pub forward_passes: u64,
    /// Tokens generated since the load.
    pub generated_tokens: u64,
    /// Tokens of prompts since the load.
    pub prompt_tokens: u64,
}

impl From<&runtime::LoadedModel> for LoadedModel {
    fn from(model: &runtime::LoadedModel) -> Self {
        Self {
            model_id: model.model_id,
            name: model.handle.clone(),
            state: model.state().into(),
            device: model.device.clone(),
            context_length: model.context_length,
            slots: model.slots,
            running_requests: model.running_requests,
            waiting_requests: model.waiting_requests,
            estimated_memory_bytes: model.estimated_memory_bytes,
            measured_memory_bytes: model.measured_memory_bytes,
            loaded_at: time(model.load_time.as_ref()),
            last_used_at: time(model.last_used_time.as_ref()),
            forward_passes: model.forward_passes,
            generated_tokens: model.generated_tokens,
            prompt_tokens: model.prompt_tokens,
        }
    }
}
