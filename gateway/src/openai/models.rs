//! `/v1/models`: what is loaded.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{LoadState, LoadedModel};
use serde_json::{Value, json};

use crate::{app::App, failure::OpenAiFailure};

pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, OpenAiFailure> {
    let data: Vec<Value> = loaded(&app).await?.iter().map(model).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, OpenAiFailure> {
    let loaded = loaded(&app).await?;
    let found = loaded.iter().find(|model| model.handle == id);
    match found {
        Some(found) => Ok(Json(model(found))),
        None => Err(ServiceError::model_not_found(id.escape_debug()).into()),
    }
}

async fn loaded(app: &App) -> Result<Vec<LoadedModel>, ServiceError> {
    let mut models = app.status().await?.models;
    models.retain(|model| model.state() == LoadState::Loaded);
    Ok(models)
}

fn model(model: &LoadedModel) -> Value {
    json!({
        "id": model.handle,
        "object": "model",
        "created": model.load_time.as_ref().map_or(0, |time| time.seconds),
        "owned_by": "miLLM",
    })
}
