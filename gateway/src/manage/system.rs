//! `GET /api/system`: devices and their memory, what is loaded, what the models take on disk, how the hub answers.

use std::sync::Arc;

use axum::extract::State;
use millm_kit::view::hub::HubView;
use millm_proto::{
    catalog::v1::Source,
    downloader::v1::GetHubStatusRequest,
    runtime::v1::{Device, LoadState, LoadedModel},
};
use serde_json::{Value, json};

use super::{Answer, success};
use crate::app::App;

pub async fn show(State(app): State<Arc<App>>) -> Answer {
    let mut downloader = app.downloader();
    let hub = downloader.get_hub_status(GetHubStatusRequest {});
    let (status, models, hub) = futures::join!(app.status(), app.models(""), hub);
    // Shown without it when the Downloader does not answer.
    let hub = hub.ok().map(|answer| HubView::from(answer.get_ref()));
    let (status, models) = (status?, models?);
    // A user's own files are not the cache's.
    let cached = models.iter().filter(|model| model.source() == Source::Huggingface);
    let cache_bytes: i64 = cached.map(|model| model.disk_size_bytes).sum();
    Ok(success(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "devices": status.devices.iter().map(device).collect::<Vec<_>>(),
        "models": status.models.iter().map(loaded).collect::<Vec<_>>(),
        "process_memory_bytes": status.process_memory_bytes,
        "model_count": models.len(),
        "cache_size_bytes": cache_bytes,
        "hub": hub,
    })))
}

fn device(device: &Device) -> Value {
    json!({
        "id": device.id,
        "name": device.name,
        "total_bytes": device.total_bytes,
        "used_bytes": device.used_bytes,
        "free_bytes": device.free_bytes,
    })
}

fn loaded(model: &LoadedModel) -> Value {
    json!({
        "model_id": model.model_id,
        "name": model.handle,
        "status": load_state(model.state()),
        "device": model.device,
        "context_length": model.context_length,
        "slots": model.slots,
        "running_requests": model.running_requests,
        "waiting_requests": model.waiting_requests,
        "estimated_memory_bytes": model.estimated_memory_bytes,
        "measured_memory_bytes": model.measured_memory_bytes,
        "loaded_at": model.load_time.as_ref().map(ToString::to_string),
        "last_used_at": model.last_used_time.as_ref().map(ToString::to_string),
        "forward_passes": model.forward_passes,
        "generated_tokens": model.generated_tokens,
        "prompt_tokens": model.prompt_tokens,
    })
}

const fn load_state(state: LoadState) -> &'static str {
    match state {
        LoadState::Unspecified => "",
        LoadState::Loading => "loading",
        LoadState::Loaded => "loaded",
        LoadState::Unloading => "unloading",
        LoadState::Unloaded => "unloaded",
        LoadState::Failed => "error",
    }
}
