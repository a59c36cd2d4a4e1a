//! `/api/system`: devices, what is loaded, the process.

use axum::extract;
use millm_proto::runtime::v1::{GetStatusRequest, LoadState, RuntimeStatus};
use serde_json::{Value, json};

use crate::{
    State,
    reply::{Reply, Success},
};

pub async fn system(extract::State(state): extract::State<State>) -> Reply<Value> {
    let status = state.runtime().get_status(GetStatusRequest {}).await?.into_inner();
    Ok(Success(status_json(&status)))
}

pub fn status_json(status: &RuntimeStatus) -> Value {
    let devices: Vec<_> = status
        .devices
        .iter()
        .map(|d| {
            json!({
                "id": d.id,
                "name": d.name,
                "total_bytes": d.total_bytes,
                "used_bytes": d.used_bytes,
                "free_bytes": d.free_bytes,
            })
        })
        .collect();
    let loaded = status.models.iter().find(|m| m.state() == LoadState::Loaded);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "devices": devices,
        "process_memory_bytes": status.process_memory_bytes,
        "loaded_model": loaded.map(|m| json!({
            "id": m.model_id,
            "name": m.handle,
            "device": m.device,
            "context_length": m.context_length,
            "running_requests": m.running_requests,
            "waiting_requests": m.waiting_requests,
            "slots": m.slots,
            "memory_bytes": m.measured_memory_bytes,
            "forward_passes": m.forward_passes,
            "generated_tokens": m.generated_tokens,
        })),
    })
}
