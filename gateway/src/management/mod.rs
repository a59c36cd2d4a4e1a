//! The management REST API: models, previews, loading, memory, the system, and events, in the envelope
//! `{"success", "data", "error"}`. A model's `{id}` is its id or its name.

pub(crate) mod events;
pub(crate) mod loading;
pub(crate) mod models;
pub(crate) mod preview;
pub(crate) mod search;
pub(crate) mod system;

use std::sync::Arc;

use axum::{
    Json, Router,
    routing::{get, post},
};
use millm_api::Success;

use crate::{error::Failure, state::AppState};

/// Returns the routes under `/api`. A new route is also listed in [`crate::openapi`].
pub fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/api/models", get(models::list).post(models::create))
        .route("/api/models/preview", post(preview::create))
        .route("/api/models/{id}", get(models::one).patch(models::rename).delete(models::remove))
        .route("/api/models/{id}/cancel", post(models::cancel))
        .route("/api/models/{id}/architecture", get(models::architecture))
        .route("/api/models/{id}/load", post(loading::load))
        .route("/api/models/{id}/unload", post(loading::unload))
        .route("/api/models/{id}/memory", get(loading::memory))
        .route("/api/search", get(search::find))
        .route("/api/system", get(system::show))
        .route("/api/events", get(events::follow))
}

/// The answer of a handler of the management API.
pub(crate) type Answer<T> = Result<Json<Success<T>>, Failure>;

/// Wraps the answer of a call that has succeeded.
pub(crate) fn success<T>(data: T) -> Json<Success<T>> {
    Json(Success::new(data))
}
