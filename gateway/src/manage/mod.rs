//! The management REST: models, previews, loading, memory, the system, and events, in the envelope
//! `{"success", "data", "error"}`. A model's `{id}` is its id or its handle.

mod events;
mod loading;
mod models;
mod preview;
mod search;
mod system;

use std::sync::Arc;

use axum::{
    Json, Router,
    routing::{get, post},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{app::App, failure::ApiFailure};

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/models", get(models::list).post(models::create))
        .route("/api/models/preview", post(preview::create))
        .route("/api/models/{id}", get(models::one).delete(models::remove))
        .route("/api/models/{id}/cancel", post(models::cancel))
        .route("/api/models/{id}/architecture", get(models::architecture))
        .route("/api/models/{id}/load", post(loading::load))
        .route("/api/models/{id}/unload", post(loading::unload))
        .route("/api/models/{id}/memory", get(loading::memory))
        .route("/api/search", get(search::show))
        .route("/api/system", get(system::show))
        .route("/api/events", get(events::follow))
}

type Answer = Result<Json<Value>, ApiFailure>;

fn success(data: impl Serialize) -> Json<Value> {
    Json(json!({"success": true, "data": data, "error": null}))
}

/// Megabytes as the seeds' fields count them.
fn megabytes(bytes: i64) -> i64 {
    bytes / 1_000_000
}
