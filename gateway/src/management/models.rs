//! `/api/models`: list, show, download or register, rename, cancel, delete.

use std::sync::Arc;

use axum::extract::{Request, State};
use millm_api::{
    Model, Success,
    download::StartDownload,
    envelope::Nothing,
    model::{ModelArchitecture, ModelPatch},
};
use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::{self as catalog, UpdateModelRequest},
    downloader::v1::{CancelDownloadRequest, RemoveModelRequest, StartDownloadRequest},
};
use prost_types::FieldMask;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, success};
use crate::{
    body::JsonObject,
    extract::{Path, Query},
    state::{AppState, from_catalog, from_downloader},
};

/// The query of `GET /api/models`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct ModelsQuery {
    /// A part of a name, repository, path or architecture.
    q: String,
    /// Only models with this status.
    status: Option<String>,
}

/// Lists the models.
#[utoipa::path(
    get,
    path = "/api/models",
    params(ModelsQuery),
    responses((status = 200, body = Success<Vec<Model>>))
)]
pub async fn list(State(app): State<Arc<AppState>>, Query(query): Query<ModelsQuery>) -> Answer<Vec<Model>> {
    let (rows, live) = futures::join!(app.rows(&query.q), app.live_states());
    let mut models: Vec<Model> = rows?.iter().map(|row| live.model(row)).collect();
    if let Some(status) = query.status {
        models.retain(|model| model.status.as_str() == status);
    }
    Ok(success(models))
}

/// Shows a model.
#[utoipa::path(
    get,
    path = "/api/models/{id}",
    params(("id" = String, Path, description = "The model's id or name")),
    responses((status = 200, body = Success<Model>))
)]
pub async fn one(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Model> {
    Ok(success(app.model(&id).await?))
}

/// Starts a download, or registers a model of this machine.
#[utoipa::path(
    post,
    path = "/api/models",
    request_body = StartDownload,
    responses((status = 200, body = Success<Model>))
)]
pub async fn create(State(app): State<Arc<AppState>>, request: Request) -> Answer<Model> {
    let start: StartDownload = JsonObject::read(request).await?.into_typed()?;
    let start: StartDownloadRequest = start.try_into()?;
    let download = app.downloader().start_download(start).await.map_err(from_downloader)?.into_inner();
    let (row, mut live) = futures::join!(app.row(&download.name), app.live_states());
    // The list may be newer than the answer; where it lacks the download, the answer counts.
    live.downloads.entry(download.model_id).or_insert(download);
    Ok(success(live.model(&row?)))
}

/// Renames a model.
#[utoipa::path(
    patch,
    path = "/api/models/{id}",
    params(("id" = String, Path, description = "The model's id or name")),
    request_body = ModelPatch,
    responses((status = 200, body = Success<Model>))
)]
pub async fn rename(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer<Model> {
    let patch: ModelPatch = JsonObject::read(request).await?.into_typed()?;
    let handle = patch.name.ok_or_else(|| ServiceError::invalid_argument("name", "must be given"))?;
    let request = UpdateModelRequest {
        model: Some(catalog::Model { name: id, handle, ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["handle".to_owned()] }),
    };
    let renamed = app.catalog().update_model(request).await.map_err(from_catalog).map_err(of_name)?;
    Ok(success(app.live_states().await.model(renamed.get_ref())))
}

/// Returns the error with this API's name for the services' field `handle`.
pub(crate) fn of_name(error: ServiceError) -> ServiceError {
    renamed(error, "handle", "name")
}

/// Returns the error with this API's name for a field of the services.
pub(crate) fn renamed(mut error: ServiceError, theirs: &str, ours: &str) -> ServiceError {
    if let Some(field) = error.details.get_mut("field").filter(|field| *field == theirs) {
        ours.clone_into(field);
        error.message = error.message.replace(&format!("'{theirs}'"), &format!("'{ours}'"));
    }
    error
}

/// Stops a model's download and removes the model.
#[utoipa::path(
    post,
    path = "/api/models/{id}/cancel",
    params(("id" = String, Path, description = "The model's id or name")),
    responses((status = 200, body = Success<Nothing>))
)]
pub async fn cancel(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Nothing> {
    let request = CancelDownloadRequest { name: id };
    app.downloader().cancel_download(request).await.map_err(from_downloader)?;
    Ok(success(Nothing))
}

/// Removes a model and its files. A local model's own files stay.
#[utoipa::path(
    delete,
    path = "/api/models/{id}",
    params(("id" = String, Path, description = "The model's id or name")),
    responses((status = 200, body = Success<Nothing>))
)]
pub async fn remove(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Nothing> {
    let request = RemoveModelRequest { name: id };
    app.downloader().remove_model(request).await.map_err(from_downloader)?;
    Ok(success(Nothing))
}

/// Shows a model's shape and its config.json.
#[utoipa::path(
    get,
    path = "/api/models/{id}/architecture",
    params(("id" = String, Path, description = "The model's id or name")),
    responses((status = 200, body = Success<ModelArchitecture>))
)]
pub async fn architecture(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
) -> Answer<ModelArchitecture> {
    Ok(success(app.row(&id).await?.into()))
}

#[cfg(test)]
mod tests {
    use millm_proto::{catalog::v1::Quantization, downloader::v1::start_download_request::Source};
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Result<StartDownloadRequest, ServiceError> {
        let object = JsonObject::parse(value.to_string().as_bytes()).unwrap();
        object.into_typed::<StartDownload>()?.try_into()
    }

    #[test]
    fn requests_are_read() {
        let request = read(&json!({
            "source": "huggingface", "repo_id": "a/b", "quantization": "Q8", "trust_remote_code": true,
            "hf_token": "hf_x", "custom_name": "mine", "revision": "v1"
        }))
        .unwrap();
        let Some(Source::Hub(hub)) = request.source.clone() else { panic!("not of the hub") };
        assert_eq!(
            (hub.repo_id.as_str(), hub.revision.as_str(), hub.hf_token.as_str()),
            ("a/b", "v1", "hf_x")
        );
        assert_eq!((request.quantization(), request.handle.as_str()), (Quantization::Q8, "mine"));
        assert!(request.trust_remote_code);
        let request = read(&json!({"local_path": "/x"})).unwrap();
        assert_eq!(request.source, Some(Source::LocalPath("/x".into())));
        assert_eq!(request.quantization(), Quantization::Unspecified);
        for (bad, field) in [
            (json!({}), "repo_id"),
            (json!({"source": "local", "repo_id": "a/b"}), "local_path"),
            (json!({"source": "ftp", "repo_id": "a/b"}), "source"),
            (json!({"repo_id": "a/b", "quantization": "Q5"}), "quantization"),
            (json!({"repo_id": 5}), "repo_id"),
        ] {
            assert_eq!(read(&bad).unwrap_err().details["field"], field);
        }
    }
}
