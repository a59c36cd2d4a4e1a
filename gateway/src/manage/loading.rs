//! Load, unload, and what loading would take. Both answer as soon as the Runtime has taken the work; how it goes on
//! is told by the events.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::extract::{Path, Query, Request, State};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{
    EstimateMemoryRequest, LoadModelRequest, LoadState, LoadedModel, UnloadModelRequest,
};
use prost::Message;
use serde_json::json;
use tonic::Streaming;

use super::{Answer, megabytes, success};
use crate::{
    app::{App, from_runtime},
    body::Fields,
};

/// The Runtime's first word normally comes at once; if not, the answer shows what is known.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn load(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Answer {
    let mut fields = Fields::read_optional(request).await?;
    let request = LoadModelRequest {
        model: id.clone(),
        allow_insufficient_memory: fields.take("allow_insufficient_memory")?.unwrap_or(false),
        context_length: fields.integer("context_length", 1..=i64::from(u32::MAX))?.unwrap_or(0) as u32,
        drain_timeout: None,
    };
    let progress = app.runtime().load_model(request).await.map_err(from_runtime)?.into_inner();
    let first = first_word(&app, progress).await?;
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

pub async fn unload(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let request = UnloadModelRequest { model: id.clone(), drain_timeout: None };
    let progress = app.runtime().unload_model(request).await.map_err(from_runtime)?.into_inner();
    let first = first_word(&app, progress).await?;
    let said =
        first.filter(|progress| progress.state() == LoadState::Unloading).map(|progress| LoadedModel {
            model_id: progress.model_id,
            handle: progress.handle,
            state: progress.state,
            ..LoadedModel::default()
        });
    answer(&app, &id, said).await
}

/// The first message, if it comes in time. The rest is read by a task, so that leaving early means nothing.
async fn first_word<M: Message + Default + 'static>(
    app: &App,
    mut progress: Streaming<M>,
) -> Result<Option<M>, ServiceError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let stopping = app.stopping.clone();
    app.tasks.spawn(async move {
        let first = progress.message().await;
        let goes_on = matches!(first, Ok(Some(_)));
        // The caller may have left.
        let _ = tell.send(first);
        let rest = async { while let Ok(Some(_)) = progress.message().await {} };
        if goes_on {
            tokio::select! { () = rest => {}, () = stopping.cancelled() => {} }
        }
    });
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(Ok(first)) => first.map_err(from_runtime),
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// What the Runtime shows now; what it said counts when it does not show the model yet.
async fn answer(app: &App, id: &str, said: Option<LoadedModel>) -> Answer {
    let (model, mut facts) = futures::join!(app.model(id), app.facts());
    if let Some(said) = said {
        let shown = facts.loaded.entry(said.model_id).or_insert_with(|| said.clone());
        if matches!(shown.state(), LoadState::Unspecified | LoadState::Failed)
            || (shown.state() == LoadState::Unloaded && said.state() == LoadState::Loading)
        {
            *shown = said;
        }
    }
    Ok(success(facts.view(&model?)))
}

/// `?context_length=` asks for another context than the server's setting.
pub async fn memory(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Answer {
    let context_length = match query.get("context_length") {
        Some(text) => text
            .parse()
            .map_err(|_| ServiceError::invalid_argument("context_length", "must be a number of tokens"))?,
        None => 0,
    };
    let request = EstimateMemoryRequest { model: id, context_length };
    let estimate = app.runtime().estimate_memory(request).await.map_err(from_runtime)?.into_inner();
    Ok(success(json!({
        "weights_bytes": estimate.weights_bytes,
        "kv_cache_bytes": estimate.kv_cache_bytes,
        "activations_bytes": estimate.activations_bytes,
        "overhead_bytes": estimate.overhead_bytes,
        "total_bytes": estimate.total_bytes,
        "total_mb": megabytes(estimate.total_bytes),
        "device": estimate.device,
        "available_bytes": estimate.available_bytes,
        "available_mb": megabytes(estimate.available_bytes),
        "fits": estimate.fits,
        "warning": (!estimate.warning.is_empty()).then_some(estimate.warning),
    })))
}
