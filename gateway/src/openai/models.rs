//! `/v1/models`: the models that can be asked now. These are the loaded ones, and every model that is ready where requests
//! load models.

use std::sync::Arc;

use axum::{Json, extract::State};
use millm_api::openai::models::{ModelCard, ModelList};
use millm_kit::ServiceError;
use millm_proto::{catalog::v1::model, runtime::v1::LoadState};

use crate::{error::Failure, extract::Path, state::AppState};

/// Lists the models that can be asked.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, body = ModelList)))]
pub async fn list(State(app): State<Arc<AppState>>) -> Result<Json<ModelList>, Failure> {
    Ok(Json(ModelList::new(usable(&app).await?.into_iter().map(ModelCard::from).collect())))
}

/// Shows one of the models that can be asked.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    params(("model" = String, Path, description = "The model's name")),
    responses((status = 200, body = ModelCard))
)]
pub async fn one(
    State(app): State<Arc<AppState>>,
    Path(name): Path<String>,
) -> Result<Json<ModelCard>, Failure> {
    match usable(&app).await?.into_iter().find(|model| model.handle == name) {
        Some(found) => Ok(Json(found.into())),
        None => Err(ServiceError::model_not_found(name.escape_debug()).into()),
    }
}

struct Usable {
    id: i64,
    handle: String,
    since: Option<prost_types::Timestamp>,
}

impl From<Usable> for ModelCard {
    fn from(model: Usable) -> Self {
        Self::new(model.handle, model.since.map_or(0, |time| time.seconds))
    }
}

async fn usable(app: &AppState) -> Result<Vec<Usable>, ServiceError> {
    let status = app.status().await?;
    let loaded = status.models.into_iter().filter(|model| model.state() == LoadState::Loaded);
    let mut usable: Vec<Usable> = loaded
        .map(|model| Usable { id: model.model_id, handle: model.handle, since: model.load_time })
        .collect();
    if status.loads_on_demand {
        for model in app.rows("").await? {
            let is_new = usable.iter().all(|known| known.id != model.id);
            if is_new && model.state() == model::State::Ready {
                usable.push(Usable { id: model.id, handle: model.handle, since: model.create_time });
            }
        }
    }
    Ok(usable)
}
