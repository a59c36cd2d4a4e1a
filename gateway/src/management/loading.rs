//! Load, unload, and the memory that a load takes. Both answer as soon as the Runtime has accepted the work; the events tell
//! how it goes on.

use std::{sync::Arc, time::Duration};

use axum::extract::{Request, State};
use millm_api::{
    Model, Success,
    load::{LoadRequest, MemoryEstimate, MemoryQuery},
};
use millm_kit::{ServiceError, request_id};
use millm_proto::runtime::v1::{
    EstimateMemoryRequest, LoadModelRequest, LoadState, LoadedModel, UnloadModelRequest,
};
use prost::Message;
use tonic::Streaming;

use super::{Answer, success};
use crate::{
    body::JsonObject,
    extract::{Path, Query},
    state::{AppState, from_runtime},
};

/// The Runtime's first message normally comes at once; if not, the answer shows what is known.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Loads a model into memory.
#[utoipa::path(
    post,
    path = "/api/models/{id}/load",
    params(("id" = String, Path, description = "The model's id or name")),
    request_body = Option<LoadRequest>,
    responses((status = 200, body = Success<Model>))
)]
pub async fn load(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer<Model> {
    let request: LoadRequest = JsonObject::read_optional(request).await?.into_typed()?;
    let context_length = match request.context_length.map(u32::try_from) {
        None => 0,
        Some(Ok(tokens)) if tokens > 0 => tokens,
        Some(_) => {
            let why = format!("must be an integer from 1 to {}", u32::MAX);
            return Err(ServiceError::invalid_argument("context_length", why).into());
        }
    };
    let request = LoadModelRequest {
        model: id.clone(),
        allow_insufficient_memory: request.allow_insufficient_memory.unwrap_or(false),
        context_length,
        drain_timeout: None,
    };
    let progress = app.runtime().load_model(request).await.map_err(from_runtime)?.into_inner();
    let first = first_message(&app, progress).await?;
    if let Some(error) = first.as_ref().and_then(|p| p.error.as_ref()) {
        return Err(ServiceError::from_rpc(error).into());
    }
    let said = first.map(|progress| LoadedModel {
        model_id: progress.model_id,
        handle: progress.handle.clone(),
        state: progress.state,
        progress: Some(progress),
        ..LoadedModel::default()
    });
    answer(&app, &id, said).await
}

/// Unloads a model. Its running requests end first.
#[utoipa::path(
    post,
    path = "/api/models/{id}/unload",
    params(("id" = String, Path, description = "The model's id or name")),
    responses((status = 200, body = Success<Model>))
)]
pub async fn unload(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Model> {
    let request = UnloadModelRequest { model: id.clone(), drain_timeout: None };
    let progress = app.runtime().unload_model(request).await.map_err(from_runtime)?.into_inner();
    let first = first_message(&app, progress).await?;
    let said =
        first.filter(|progress| progress.state() == LoadState::Unloading).map(|progress| LoadedModel {
            model_id: progress.model_id,
            handle: progress.handle,
            state: progress.state,
            ..LoadedModel::default()
        });
    answer(&app, &id, said).await
}

/// Returns the first message, if it comes in time. A task reads the rest, so that a caller who leaves cancels nothing.
async fn first_message<M: Message + Default + 'static>(
    app: &AppState,
    mut progress: Streaming<M>,
) -> Result<Option<M>, ServiceError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let stopping = app.stopping.clone();
    app.tasks.spawn(request_id::inherit(async move {
        let first = progress.message().await;
        let goes_on = matches!(first, Ok(Some(_)));
        // The caller may have left.
        let _ = tell.send(first);
        let rest = async { while let Ok(Some(_)) = progress.message().await {} };
        if goes_on {
            tokio::select! { () = rest => {}, () = stopping.cancelled() => {} }
        }
    }));
    match tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, told).await {
        Ok(Ok(first)) => first.map_err(from_runtime),
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// Returns the model as the Runtime shows it now. While the Runtime does not show it yet, its message counts.
async fn answer(app: &AppState, id: &str, said: Option<LoadedModel>) -> Answer<Model> {
    let (row, mut live) = futures::join!(app.row(id), app.live_states());
    if let Some(said) = said {
        let shown = live.loaded.entry(said.model_id).or_insert_with(|| said.clone());
        if matches!(shown.state(), LoadState::Unspecified | LoadState::Failed)
            || (shown.state() == LoadState::Unloaded && said.state() == LoadState::Loading)
        {
            *shown = said;
        }
    }
    Ok(success(live.model(&row?)))
}

/// Estimates the memory that loading a model takes.
#[utoipa::path(
    get,
    path = "/api/models/{id}/memory",
    params(("id" = String, Path, description = "The model's id or name"), MemoryQuery),
    responses((status = 200, body = Success<MemoryEstimate>))
)]
pub async fn memory(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    Query(query): Query<MemoryQuery>,
) -> Answer<MemoryEstimate> {
    let context_length = query.context_length.unwrap_or(0);
    let request = EstimateMemoryRequest { model: id, context_length };
    let estimate = app.runtime().estimate_memory(request).await.map_err(from_runtime)?.into_inner();
    Ok(success(MemoryEstimate::from(&estimate)))
}
