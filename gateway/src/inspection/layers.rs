//! `GET /api/models/{id}/layers`: a model's layers with their tensors and hook points. Nothing is loaded for it.

use std::sync::Arc;

use axum::extract::State;
use millm_api::{Success, inspection::layers::ModelLayers};
use millm_proto::inspection::v1::DescribeModelRequest;

use crate::{
    extract::Path,
    management::{Answer, success},
    state::{AppState, from_runtime},
};

/// Shows a model's layers with their tensors and hook points.
#[utoipa::path(
    get,
    path = "/api/models/{id}/layers",
    params(("id" = String, Path, description = "The model's id or name")),
    responses((status = 200, body = Success<ModelLayers>))
)]
pub async fn show(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<ModelLayers> {
    let request = DescribeModelRequest { model: id };
    let description = app.inspection().describe_model(request).await.map_err(from_runtime)?.into_inner();
    Ok(success(ModelLayers::from(&description)))
}
