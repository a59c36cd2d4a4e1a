//! The management REST API for looking inside models: layers, datasets, templates, extractions and their files. An `{id}` is
//! an id or a name; extractions have ids alone.

pub(crate) mod datasets;
pub(crate) mod events;
pub(crate) mod extractions;
pub(crate) mod files;
pub(crate) mod layers;
pub(crate) mod templates;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};

use crate::state::AppState;

/// Returns the routes under `/api`.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/api/models/{id}/layers", get(layers::show))
        .route("/api/models/{id}/extract", post(extractions::start))
        .route("/api/models/{id}/extract/estimate", post(extractions::estimate))
        .route("/api/datasets", get(datasets::list).post(datasets::create))
        .route("/api/datasets/{id}", get(datasets::one).delete(datasets::remove))
        .route("/api/datasets/{id}/rows", get(datasets::rows))
        .route("/api/templates", get(templates::list).post(templates::create))
        .route("/api/templates/import", post(templates::import))
        .route("/api/templates/export", get(templates::export))
        .route("/api/templates/{id}", get(templates::one).patch(templates::change).delete(templates::remove))
        .route("/api/templates/{id}/favorite", post(templates::favorite))
        .route("/api/extractions", get(extractions::list))
        .route("/api/extractions/{id}", get(extractions::one).delete(extractions::remove))
        .route("/api/extractions/{id}/cancel", post(extractions::cancel))
        .route("/api/extractions/{id}/resume", post(extractions::resume))
        .route("/api/extractions/{id}/replay", post(extractions::replay))
        .route("/api/extractions/{id}/files/{name}", get(files::read))
}
