//! The management REST: `/api/models` as the product documents give it, `/api/system`, `/api/events`.

mod events;
mod models;
mod system;

use std::collections::HashMap;

use axum::{
    Router,
    routing::{get, post},
};
use millm_kit::{ServiceError, view};
use millm_proto::{
    catalog::v1::Model,
    downloader::v1::{Download, ListDownloadsRequest},
    runtime::v1::{GetStatusRequest, LoadedModel},
};

use crate::State;

pub fn routes() -> Router<State> {
    Router::new()
        .route("/api/models", get(models::list).post(models::create))
        .route("/api/models/preview", post(models::preview))
        .route("/api/models/{id}", get(models::get).delete(models::remove))
        .route("/api/models/{id}/load", post(models::load))
        .route("/api/models/{id}/unload", post(models::unload))
        .route("/api/models/{id}/cancel", post(models::cancel))
        .route("/api/models/{id}/memory", get(models::memory))
        .route("/api/system", get(system::system))
        .route("/api/events", get(events::events))
}

/// What the Downloader and the Runtime know, by model id.
struct Facts {
    downloads: HashMap<i64, Download>,
    loaded: HashMap<i64, LoadedModel>,
}

impl Facts {
    async fn read(state: &State) -> Result<Self, ServiceError> {
        let (mut downloader, mut runtime) = (state.downloader(), state.runtime());
        let (downloads, status) =
            tokio::join!(downloader.list_downloads(ListDownloadsRequest {}), runtime.get_status(GetStatusRequest {}));
        Ok(Self {
            downloads: downloads?.into_inner().downloads.into_iter().map(|d| (d.model_id, d)).collect(),
            loaded: status?.into_inner().models.into_iter().map(|l| (l.model_id, l)).collect(),
        })
    }

    fn view(&self, model: &Model) -> view::ModelView {
        view::model(model, self.downloads.get(&model.id), self.loaded.get(&model.id))
    }
}

/// One model as it stands now.
async fn view_of(state: &State, model: &Model) -> Result<view::ModelView, ServiceError> {
    Ok(Facts::read(state).await?.view(model))
}
