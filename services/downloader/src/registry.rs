//! The Catalog as the Downloader uses it: the rows of what is arriving. It may restart at any time; work that is
//! done is not lost by that, the row is written when it is back.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use millm_kit::{Conn, ServiceError};
use millm_proto::{
    catalog::v1::{
        CreateModelRequest, DeleteModelRequest, GetModelRequest, ListModelsRequest, Model,
        UpdateModelRequest, catalog_service_client::CatalogServiceClient, model::State,
    },
    rpc,
};
use prost_types::FieldMask;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const PAGE: i32 = 100;
const MOST_MESSAGE_BYTES: usize = 256 << 20;

#[derive(Debug, Clone)]
pub struct Registry {
    client: CatalogServiceClient<Conn>,
}

/// Rows, and which catalogue's they are.
#[derive(Debug)]
pub struct Listing {
    pub models: Vec<Model>,
    pub catalog: String,
}

impl Registry {
    pub fn new(conn: Conn) -> Self {
        Self { client: CatalogServiceClient::new(conn).max_decoding_message_size(MOST_MESSAGE_BYTES) }
    }

    /// By resource name, id or handle.
    pub async fn get(&self, name: &str) -> Result<Model, ServiceError> {
        Ok(self.try_get(name).await?)
    }

    pub async fn create(&self, model: Model) -> Result<Model, ServiceError> {
        let request = CreateModelRequest { model: Some(model) };
        Ok(answer(self.client.clone().create_model(request)).await?)
    }

    /// Writes the fields that `paths` names; with an etag, only if the row is as it was read.
    pub async fn update(&self, model: Model, paths: &[&str]) -> Result<Model, ServiceError> {
        Ok(self.try_update(model, paths).await?)
    }

    pub async fn mark_deleting(&self, id: i64) -> Result<Model, ServiceError> {
        self.update(in_state(id, State::Deleting, None), &["state"]).await
    }

    pub async fn delete(&self, id: i64) -> Result<(), ServiceError> {
        Ok(self.try_delete(id).await?)
    }

    /// The rows that match `query`.
    pub async fn list(&self, query: &str) -> Result<Vec<Model>, ServiceError> {
        Ok(self.try_list(query).await?.models)
    }

    /// The next four wait for the Catalog as long as it takes; `None` when we stop meanwhile.
    pub async fn list_when_back(
        &self,
        stopping: &CancellationToken,
    ) -> Option<Result<Listing, ServiceError>> {
        when_back(stopping, || self.try_list("")).await
    }

    pub async fn update_when_back(
        &self,
        stopping: &CancellationToken,
        model: &Model,
        paths: &[&str],
    ) -> Option<Result<Model, ServiceError>> {
        when_back(stopping, || self.try_update(model.clone(), paths)).await
    }

    pub async fn fail_when_back(
        &self,
        stopping: &CancellationToken,
        id: i64,
        error: &ServiceError,
    ) -> Option<Result<Model, ServiceError>> {
        let row = in_state(id, State::Error, Some(error.to_rpc()));
        self.update_when_back(stopping, &row, &["state", "error"]).await
    }

    pub async fn delete_when_back(
        &self,
        stopping: &CancellationToken,
        id: i64,
    ) -> Option<Result<(), ServiceError>> {
        when_back(stopping, || self.try_delete(id)).await
    }

    async fn try_get(&self, name: &str) -> Result<Model, Status> {
        let request = GetModelRequest { name: name.to_owned() };
        answer(self.client.clone().get_model(request)).await
    }

    async fn try_update(&self, model: Model, paths: &[&str]) -> Result<Model, Status> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let request = UpdateModelRequest { model: Some(model), update_mask: Some(FieldMask { paths }) };
        answer(self.client.clone().update_model(request)).await
    }

    /// That it is gone already is as good.
    async fn try_delete(&self, id: i64) -> Result<(), Status> {
        let request = DeleteModelRequest { name: format!("models/{id}"), ..DeleteModelRequest::default() };
        match answer(self.client.clone().delete_model(request)).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            other => other,
        }
    }

    async fn try_list(&self, query: &str) -> Result<Listing, Status> {
        let mut models = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListModelsRequest {
                page_size: PAGE,
                page_token,
                query: query.to_owned(),
                ..ListModelsRequest::default()
            };
            let page = answer(self.client.clone().list_models(request)).await?;
            models.extend(page.models);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(Listing { models, catalog: page.catalog_id });
            }
        }
    }
}

fn in_state(id: i64, state: State, error: Option<rpc::Status>) -> Model {
    Model { name: format!("models/{id}"), id, state: state.into(), error, ..Model::default() }
}

async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(|status| {
            if is_absence(&status) {
                tracing::debug!(%status, "catalog unreachable");
                return ServiceError::service_unavailable("catalog").into();
            }
            status
        }),
        Err(_) => Err(ServiceError::service_unavailable("catalog").into()),
    }
}

/// Whether a status came from the way to the Catalog instead of from it: it carries no reason of ours.
fn is_absence(status: &Status) -> bool {
    let passing =
        matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal);
    passing && status.get_error_details().error_info().is_none()
}

async fn when_back<T, F: Future<Output = Result<T, Status>>>(
    stopping: &CancellationToken,
    mut call: impl FnMut() -> F,
) -> Option<Result<T, ServiceError>> {
    let mut pauses = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .without_max_times()
        .with_jitter()
        .build();
    loop {
        let status = match call().await {
            Ok(value) => return Some(Ok(value)),
            Err(status) if status.code() == Code::Unavailable => status,
            Err(status) => return Some(Err(status.into())),
        };
        tracing::warn!(why = status.message(), "waiting for the catalog");
        let pause = pauses.next().unwrap_or(Duration::from_secs(2));
        tokio::select! {
            () = stopping.cancelled() => return None,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
