//! Devices and the models in memory: `GET /api/system` and `millm ps --json`.

use millm_proto::runtime::v1 as runtime;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{download::Download, hub::Hub, load::LoadState, time};

/// `GET /api/system`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct System {
    /// Of the gateway.
    pub version: &'static str,
    /// The memory of each device.
    pub devices: Vec<Device>,
    /// Models that are loading, loaded or unloading, or whose last load failed.
    pub models: Vec<LoadedModel>,
    /// Resident bytes of the Runtime's process.
    pub process_memory_bytes: i64,
    /// Registered models.
    pub model_count: usize,
    /// Bytes on disk of the models that were downloaded.
    pub cache_size_bytes: i64,
    /// Null while the Downloader does not answer.
    pub hub: Option<Hub>,
}

/// `millm ps --json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Activity {
    /// Models that are loading, loaded or unloading, or whose last load failed.
    pub models: Vec<LoadedModel>,
    /// The memory of each device.
    pub devices: Vec<Device>,
    /// Downloads that wait or run.
    pub downloads: Vec<Download>,
    /// Resident bytes of the Runtime's process.
    pub process_memory_bytes: i64,
}

/// A device that models run on.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Device {
    /// `cpu`, `cuda:0`.
    pub id: String,
    /// As its maker calls it.
    pub name: String,
    /// Its memory.
    pub total_bytes: i64,
    /// By all programs.
    pub used_bytes: i64,
    /// For models.
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

/// A model that the Runtime knows.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LoadedModel {
    /// The model.
    pub model_id: i64,
    /// The model's name.
    pub name: String,
    /// Whether it is in memory.
    pub state: LoadState,
    /// Where it runs.
    pub device: String,
    /// Tokens that a request may hold.
    pub context_length: u32,
    /// Requests that can run at once.
    pub slots: u32,
    /// Requests that run.
    pub running_requests: u32,
    /// Requests that wait for a slot.
    pub waiting_requests: u32,
    /// Bytes of memory, as estimated before it was loaded.
    pub estimated_memory_bytes: i64,
    /// Bytes of memory, the most since it was loaded.
    pub measured_memory_bytes: i64,
    /// RFC 3339.
    pub loaded_at: Option<String>,
    /// RFC 3339.
    pub last_used_at: Option<String>,
    /// Forward passes since it was loaded.
    pub forward_passes: u64,
    /// Tokens that were generated in them.
    pub generated_tokens: u64,
    /// Tokens of prompts.
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
