//! `/api/extractions`, and what starts one: estimate, start, list, show, cancel, resume, replay, remove.

use std::sync::Arc;

use axum::extract::{Request, State};
use millm_api::{
    Success,
    envelope::Nothing,
    inspection::{
        estimate::ExtractionEstimate,
        extraction::{Extraction, ExtractionRequest, ExtractionsQuery},
    },
};
use millm_proto::{
    catalog::v1::ExtractionSettings,
    inspection::v1::{
        self as inspection, CancelExtractionRequest, DeleteExtractionRequest, EstimateExtractionRequest,
        ExtractionConfig, GetExtractionRequest, ReplayExtractionRequest, ResumeExtractionRequest,
        StartExtractionRequest,
    },
};

use super::templates;
use crate::{
    body::JsonObject,
    error::Failure,
    extract::{Path, Query},
    management::{Answer, success},
    state::{AppState, from_runtime},
};

/// Starts an extraction: a job that writes a loaded model's activations over a dataset.
#[utoipa::path(
    post,
    path = "/api/models/{id}/extract",
    params(("id" = String, Path, description = "The model's id or name")),
    request_body = ExtractionRequest,
    responses((status = 200, body = Success<Extraction>))
)]
pub async fn start(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer<Extraction> {
    let request = StartExtractionRequest { config: Some(config(&app, id, request).await?) };
    shown(app.inspection().start_extraction(request).await)
}

/// Estimates what an extraction takes, and says what would prevent it.
#[utoipa::path(
    post,
    path = "/api/models/{id}/extract/estimate",
    params(("id" = String, Path, description = "The model's id or name")),
    request_body = ExtractionRequest,
    responses((status = 200, body = Success<ExtractionEstimate>))
)]
pub async fn estimate(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer<ExtractionEstimate> {
    let request = EstimateExtractionRequest { config: Some(config(&app, id, request).await?) };
    let estimate = app.inspection().estimate_extraction(request).await.map_err(from_runtime)?.into_inner();
    Ok(success(ExtractionEstimate::from(&estimate)))
}

/// Reads the body of a request for an extraction of `model`, with the settings of the template that it names.
async fn config(app: &AppState, model: String, request: Request) -> Result<ExtractionConfig, Failure> {
    let request: ExtractionRequest = JsonObject::read(request).await?.into_typed()?;
    let template = match request.template.clone() {
        Some(name) => templates::find(app, name).await?.settings.unwrap_or_default(),
        None => ExtractionSettings::default(),
    };
    Ok(request.into_config(model, template)?)
}

fn shown(answer: Result<tonic::Response<inspection::Extraction>, tonic::Status>) -> Answer<Extraction> {
    Ok(success(Extraction::from(answer.map_err(from_runtime)?.get_ref())))
}

/// Lists the extractions, the newest first.
#[utoipa::path(
    get,
    path = "/api/extractions",
    params(ExtractionsQuery),
    responses((status = 200, body = Success<Vec<Extraction>>))
)]
pub async fn list(
    State(app): State<Arc<AppState>>,
    Query(query): Query<ExtractionsQuery>,
) -> Answer<Vec<Extraction>> {
    let extractions = app.extractions(&query.model).await?;
    Ok(success(extractions.iter().map(Extraction::from).collect()))
}

/// Shows an extraction.
#[utoipa::path(
    get,
    path = "/api/extractions/{id}",
    params(("id" = String, Path, description = "The extraction's id")),
    responses((status = 200, body = Success<Extraction>))
)]
pub async fn one(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Extraction> {
    shown(app.inspection().get_extraction(GetExtractionRequest { name: id }).await)
}

/// Stops an extraction. What it has written stays, so that it can be resumed.
#[utoipa::path(
    post,
    path = "/api/extractions/{id}/cancel",
    params(("id" = String, Path, description = "The extraction's id")),
    responses((status = 200, body = Success<Extraction>))
)]
pub async fn cancel(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Extraction> {
    shown(app.inspection().cancel_extraction(CancelExtractionRequest { name: id }).await)
}

/// Goes on with an extraction that was cancelled, failed or was interrupted.
#[utoipa::path(
    post,
    path = "/api/extractions/{id}/resume",
    params(("id" = String, Path, description = "The extraction's id")),
    responses((status = 200, body = Success<Extraction>))
)]
pub async fn resume(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Extraction> {
    shown(app.inspection().resume_extraction(ResumeExtractionRequest { name: id }).await)
}

/// Does an extraction again and compares the files.
#[utoipa::path(
    post,
    path = "/api/extractions/{id}/replay",
    params(("id" = String, Path, description = "The extraction's id")),
    responses((status = 200, body = Success<Extraction>))
)]
pub async fn replay(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Extraction> {
    shown(app.inspection().replay_extraction(ReplayExtractionRequest { name: id }).await)
}

/// Removes an extraction and its files.
#[utoipa::path(
    delete,
    path = "/api/extractions/{id}",
    params(("id" = String, Path, description = "The extraction's id")),
    responses((status = 200, body = Success<Nothing>))
)]
pub async fn remove(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Nothing> {
    let request = DeleteExtractionRequest { name: id };
    app.inspection().delete_extraction(request).await.map_err(from_runtime)?;
    Ok(success(Nothing))
}
