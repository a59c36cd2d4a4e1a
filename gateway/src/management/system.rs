//! `GET /api/system`: devices and their memory, loaded models, the models' size on disk, and how the hub answers.

use std::sync::Arc;

use axum::extract::State;
use millm_api::{
    Success,
    hub::Hub,
    system::{Device, LoadedModel, System},
};
use millm_proto::{catalog::v1::Source, downloader::v1::GetHubStatusRequest};

use super::{Answer, success};
use crate::state::AppState;

/// Shows devices, loaded models, the models' size on disk, and how the hub answers.
#[utoipa::path(get, path = "/api/system", responses((status = 200, body = Success<System>)))]
pub async fn show(State(app): State<Arc<AppState>>) -> Answer<System> {
    let mut downloader = app.downloader();
    let hub = downloader.get_hub_status(GetHubStatusRequest {});
    let (status, rows, hub) = futures::join!(app.status(), app.rows(""), hub);
    let (status, rows) = (status?, rows?);
    // A user's own files are not the cache's.
    let downloaded = rows.iter().filter(|model| model.source() == Source::Huggingface);
    Ok(success(System {
        version: env!("CARGO_PKG_VERSION"),
        devices: status.devices.iter().map(Device::from).collect(),
        models: status.models.iter().map(LoadedModel::from).collect(),
        process_memory_bytes: status.process_memory_bytes,
        model_count: rows.len(),
        cache_size_bytes: downloaded.map(|model| model.disk_size_bytes).sum(),
        // Null when the Downloader does not answer.
        hub: hub.ok().map(|answer| Hub::from(answer.get_ref())),
    }))
}
