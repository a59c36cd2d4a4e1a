//! `/api/datasets`: list, show, register or fetch, read rows, remove.

use std::sync::Arc;

use axum::extract::{Request, State};
use millm_api::{
    Success,
    envelope::Nothing,
    inspection::dataset::{Dataset, DatasetRows, NewDataset, RowsQuery},
};
use millm_kit::{ServiceError, request_id};
use millm_proto::{
    catalog::v1::{self as catalog, GetDatasetRequest, ListDatasetsRequest},
    downloader::v1::{AddDatasetProgress, AddDatasetRequest, RemoveDatasetRequest, add_dataset_request},
};
use tonic::Streaming;

use crate::{
    body::JsonObject,
    extract::{Path, Query},
    management::{Answer, models::of_name, success},
    state::{AppState, from_catalog, from_downloader},
};

/// Lists the datasets.
#[utoipa::path(get, path = "/api/datasets", responses((status = 200, body = Success<Vec<Dataset>>)))]
pub async fn list(State(app): State<Arc<AppState>>) -> Answer<Vec<Dataset>> {
    let mut datasets = Vec::new();
    let mut request = ListDatasetsRequest { page_size: 1000, ..ListDatasetsRequest::default() };
    loop {
        let page = app.datasets().list_datasets(request.clone()).await.map_err(from_catalog)?.into_inner();
        datasets.extend(page.datasets.iter().map(Dataset::from));
        if page.next_page_token.is_empty() {
            return Ok(success(datasets));
        }
        request.page_token = page.next_page_token;
    }
}

/// Shows a dataset.
#[utoipa::path(
    get,
    path = "/api/datasets/{id}",
    params(("id" = String, Path, description = "The dataset's id or name")),
    responses((status = 200, body = Success<Dataset>))
)]
pub async fn one(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Dataset> {
    let request = GetDatasetRequest { name: id };
    let dataset = app.datasets().get_dataset(request).await.map_err(from_catalog)?.into_inner();
    Ok(success(Dataset::from(&dataset)))
}

/// Registers files of the server's machine and reads them to their end, or begins to fetch a dataset of the hub.
#[utoipa::path(
    post,
    path = "/api/datasets",
    request_body = NewDataset,
    responses((status = 200, body = Success<Dataset>))
)]
pub async fn create(State(app): State<Arc<AppState>>, request: Request) -> Answer<Dataset> {
    let new: NewDataset = JsonObject::read(request).await?.into_typed()?;
    let add: AddDatasetRequest = new.try_into()?;
    let is_local = matches!(add.source, Some(add_dataset_request::Source::LocalPath(_)));
    let progress = app.downloader().add_dataset(add).await.map_err(from_downloader).map_err(of_name)?;
    let progress = progress.into_inner();
    let dataset = if is_local { last(progress).await } else { first(&app, progress).await };
    Ok(success(Dataset::from(&dataset.map_err(of_name)?)))
}

/// Returns the dataset of the last message.
async fn last(mut progress: Streaming<AddDatasetProgress>) -> Result<catalog::Dataset, ServiceError> {
    let mut last = None;
    while let Some(message) = next(&mut progress).await? {
        last = message.dataset.or(last);
    }
    last.ok_or_else(no_dataset)
}

/// Returns the dataset of the first message that has one. A task reads the rest.
async fn first(
    app: &AppState,
    mut progress: Streaming<AddDatasetProgress>,
) -> Result<catalog::Dataset, ServiceError> {
    let dataset = loop {
        let message = next(&mut progress).await?.ok_or_else(no_dataset)?;
        if let Some(dataset) = message.dataset {
            break dataset;
        }
    };
    let stopping = app.stopping.clone();
    app.tasks.spawn(request_id::inherit(async move {
        let rest = async { while let Ok(Some(_)) = progress.message().await {} };
        tokio::select! { () = rest => {}, () = stopping.cancelled() => {} }
    }));
    Ok(dataset)
}

/// Returns the next message; `None` at the end.
async fn next(
    progress: &mut Streaming<AddDatasetProgress>,
) -> Result<Option<AddDatasetProgress>, ServiceError> {
    let message = progress.message().await.map_err(from_downloader)?;
    match message.as_ref().and_then(|message| message.error.as_ref()) {
        Some(error) => Err(ServiceError::from_rpc(error)),
        None => Ok(message),
    }
}

fn no_dataset() -> ServiceError {
    ServiceError::internal("AddDataset ended without a dataset")
}

/// Reads rows of a dataset.
#[utoipa::path(
    get,
    path = "/api/datasets/{id}/rows",
    params(("id" = String, Path, description = "The dataset's id or name"), RowsQuery),
    responses((status = 200, body = Success<DatasetRows>))
)]
pub async fn rows(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    Query(query): Query<RowsQuery>,
) -> Answer<DatasetRows> {
    let request = query.into_request(id);
    let offset = request.offset;
    let rows = app.downloader().read_dataset_rows(request).await.map_err(from_downloader)?.into_inner();
    Ok(success(DatasetRows::new(offset, &rows)))
}

/// Removes a dataset, and its files if they came from the hub.
#[utoipa::path(
    delete,
    path = "/api/datasets/{id}",
    params(("id" = String, Path, description = "The dataset's id or name")),
    responses((status = 200, body = Success<Nothing>))
)]
pub async fn remove(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Nothing> {
    let request = RemoveDatasetRequest { name: id };
    app.downloader().remove_dataset(request).await.map_err(from_downloader)?;
    Ok(success(Nothing))
}
