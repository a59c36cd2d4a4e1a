//! `/v1/models`: what can be asked now. That is what is loaded, and where requests have models loaded also every
//! model that is ready.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use millm_kit::ServiceError;
use millm_proto::{catalog::v1::model, runtime::v1::LoadState};
use serde_json::{Value, json};

use crate::{app::App, failure::OpenAiFailure};

pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, OpenAiFailure> {
    let data: Vec<Value> = usable(&app).await?.iter().map(Usable::json).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, OpenAiFailure> {
    let usable = usable(&app).await?;
    match usable.iter().find(|model| model.handle == id) {
        Some(found) => Ok(Json(found.json())),
        None => Err(ServiceError::model_not_found(id.escape_debug()).into()),
    }
}

struct Usable {
    id: i64,
    handle: String,
    since: Option<prost_types::Timestamp>,
}

async fn usable(app: &App) -> Result<Vec<Usable>, ServiceError> {
    let status = app.status().await?;
    let loaded = status.models.into_iter().filter(|model| model.state() == LoadState::Loaded);
    let mut usable: Vec<Usable> = loaded
        .map(|model| Usable { id: model.model_id, handle: model.handle, since: model.load_time })
        .collect();
    if status.loads_on_demand {
        for model in app.models("").await? {
            let is_new = usable.iter().all(|known| known.id != model.id);
            if is_new && model.state() == model::State::Ready {
                usable.push(Usable { id: model.id, handle: model.handle, since: model.create_time });
            }
        }
    }
    Ok(usable)
}

impl Usable {
    fn json(&self) -> Value {
        json!({
            "id": self.handle,
            "object": "model",
            "created": self.since.as_ref().map_or(0, |time| time.seconds),
            "owned_by": "miLLM",
        })
    }
}
