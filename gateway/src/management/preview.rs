//! `POST /api/models/preview`: what a repository holds and would take.

use std::sync::Arc;

use axum::extract::{Request, State};
use millm_api::{
    Success,
    preview::{ModelPreview, PreviewRequest},
};
use millm_proto::downloader::v1::PreviewModelRequest;

use super::{Answer, success};
use crate::{
    body::JsonObject,
    state::{AppState, from_downloader},
};

/// Shows what a repository holds and would take, before it is downloaded.
#[utoipa::path(
    post,
    path = "/api/models/preview",
    request_body = PreviewRequest,
    responses((status = 200, body = Success<ModelPreview>))
)]
pub async fn create(State(app): State<Arc<AppState>>, request: Request) -> Answer<ModelPreview> {
    let request: PreviewRequest = JsonObject::read(request).await?.into_typed()?;
    let request: PreviewModelRequest = request.try_into()?;
    let preview = app.downloader().preview_model(request).await.map_err(from_downloader)?.into_inner();
    Ok(success(ModelPreview::from(&preview)))
}
