//! The Catalog's client: the rows of the models that are downloaded, made or removed.
//!
//! The Catalog may restart at any time. Finished work is not lost by that: methods that end in `_with_retry` wait until
//! the Catalog answers again, or until this process stops.

use std::time::Duration;

use millm_kit::{Channel, Reason, ServiceError, quantization::name as name_of};
use millm_proto::{
    catalog::v1::{
        CreateModelRequest, DeleteModelRequest, GetModelRequest, ListModelsRequest, Model, Source,
        UpdateModelRequest, catalog_service_client::CatalogServiceClient, model::State,
    },
    rpc,
};
use prost_types::FieldMask;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::retry::RetryPolicy;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Rows of a page.
pub(crate) const PAGE_SIZE: i32 = 100;
/// The largest answer, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A client of the Catalog. It is cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CatalogClient {
    client: CatalogServiceClient<Channel>,
}

/// Rows, and the identity of their catalog.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) models: Vec<Model>,
    pub(crate) catalog_id: String,
}

impl CatalogClient {
    /// Makes a client on a channel to the Catalog.
    pub(crate) fn new(channel: Channel) -> Self {
        Self { client: CatalogServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES) }
    }

    /// Returns the row with this resource name, id or handle.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_FOUND, SERVICE_UNAVAILABLE.
    pub(crate) async fn get(&self, name: &str) -> Result<Model, ServiceError> {
        Ok(self.try_get(name).await?)
    }

    /// Creates a row.
    ///
    /// # Errors
    ///
    /// MODEL_ALREADY_EXISTS, SERVICE_UNAVAILABLE.
    pub(crate) async fn create(&self, model: Model) -> Result<Model, ServiceError> {
        let request = CreateModelRequest { model: Some(model) };
        Ok(answer(self.client.clone().create_model(request)).await?)
    }

    /// Writes the fields that `paths` names. With an etag, the row must be as it was read.
    ///
    /// # Errors
    ///
    /// CONFLICT when the etag is old, MODEL_NOT_FOUND, SERVICE_UNAVAILABLE.
    pub(crate) async fn update(&self, model: Model, paths: &[&str]) -> Result<Model, ServiceError> {
        Ok(self.try_update(model, paths).await?)
    }

    /// Sets the state to DELETING.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::update`].
    pub(crate) async fn mark_deleting(&self, id: i64) -> Result<Model, ServiceError> {
        self.update(row_in_state(id, State::Deleting, None), &["state"]).await
    }

    /// Deletes a row. A row that is gone already counts as deleted.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE.
    pub(crate) async fn delete(&self, id: i64) -> Result<(), ServiceError> {
        Ok(self.try_delete(id).await?)
    }

    /// Returns the rows that match `query`.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE.
    pub(crate) async fn list(&self, query: &str) -> Result<Vec<Model>, ServiceError> {
        Ok(self.try_list(query).await?.models)
    }

    /// Returns the row that asks for the same model as `wanted`, if there is one.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE.
    pub(crate) async fn find_same(&self, wanted: &Model) -> Result<Option<Model>, ServiceError> {
        let is_same = |row: &Model| {
            row.source == wanted.source
                && row.repo_id.eq_ignore_ascii_case(&wanted.repo_id)
                && row.file == wanted.file
                && row.local_path == wanted.local_path
                // One local path is one model, whatever its quantization.
                && (wanted.source() == Source::Local
                    || row.requested_quantization == wanted.requested_quantization)
        };
        let query = if wanted.local_path.is_empty() { &wanted.repo_id } else { &wanted.local_path };
        Ok(self.list(query).await?.into_iter().find(is_same))
    }

    /// Creates a row, or sets a failed row for the same model back to PENDING.
    ///
    /// # Errors
    ///
    /// MODEL_ALREADY_EXISTS with the row's id when the model exists in another state or quantization,
    /// SERVICE_UNAVAILABLE.
    pub(crate) async fn create_or_retry(&self, wanted: Model) -> Result<Model, ServiceError> {
        let Some(existing) = self.find_same(&wanted).await? else {
            return self.create(wanted).await;
        };
        let exists = || {
            let quantization = name_of(existing.requested_quantization());
            ServiceError::model_already_exists(existing.id, &existing.handle, quantization)
        };
        if existing.state() != State::Error
            || existing.requested_quantization != wanted.requested_quantization
        {
            return Err(exists());
        }
        // With the etag, only one of two concurrent retries succeeds.
        let mut retried = Model {
            name: existing.name.clone(),
            etag: existing.etag.clone(),
            revision: wanted.revision,
            commit: wanted.commit,
            trust_remote_code: wanted.trust_remote_code,
            ..Model::default()
        };
        retried.set_state(State::Pending);
        let paths = ["state", "error", "revision", "commit", "trust_remote_code"];
        match self.update(retried, &paths).await {
            Err(error) if error.reason == Reason::Conflict => Err(exists()),
            other => other,
        }
    }

    /// Returns all rows. `None` when the process stops meanwhile.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::list`], except that the Catalog does not answer.
    pub(crate) async fn list_with_retry(
        &self,
        shutdown: &CancellationToken,
    ) -> Option<Result<Listing, ServiceError>> {
        with_retry(shutdown, || self.try_list("")).await
    }

    /// Writes the fields that `paths` names. `None` when the process stops meanwhile.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::update`], except that the Catalog does not answer.
    pub(crate) async fn update_with_retry(
        &self,
        shutdown: &CancellationToken,
        model: &Model,
        paths: &[&str],
    ) -> Option<Result<Model, ServiceError>> {
        with_retry(shutdown, || self.try_update(model.clone(), paths)).await
    }

    /// Sets the state to ERROR with this error. `None` when the process stops meanwhile.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::update_with_retry`].
    pub(crate) async fn fail_with_retry(
        &self,
        shutdown: &CancellationToken,
        id: i64,
        error: &ServiceError,
    ) -> Option<Result<Model, ServiceError>> {
        let row = row_in_state(id, State::Error, Some(error.to_rpc()));
        self.update_with_retry(shutdown, &row, &["state", "error"]).await
    }

    /// Deletes a row. `None` when the process stops meanwhile.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::delete`], except that the Catalog does not answer.
    pub(crate) async fn delete_with_retry(
        &self,
        shutdown: &CancellationToken,
        id: i64,
    ) -> Option<Result<(), ServiceError>> {
        with_retry(shutdown, || self.try_delete(id)).await
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

    async fn try_delete(&self, id: i64) -> Result<(), Status> {
        let request = DeleteModelRequest { name: format!("models/{id}"), ..DeleteModelRequest::default() };
        match answer(self.client.clone().delete_model(request)).await {
            // NotFound counts as success.
            Err(status) if status.code() == Code::NotFound => Ok(()),
            other => other,
        }
    }

    async fn try_list(&self, query: &str) -> Result<Listing, Status> {
        let mut models = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListModelsRequest {
                page_size: PAGE_SIZE,
                page_token,
                query: query.to_owned(),
                ..ListModelsRequest::default()
            };
            let page = answer(self.client.clone().list_models(request)).await?;
            models.extend(page.models);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(Listing { models, catalog_id: page.catalog_id });
            }
        }
    }
}

fn row_in_state(id: i64, state: State, error: Option<rpc::Status>) -> Model {
    Model { name: format!("models/{id}"), id, state: state.into(), error, ..Model::default() }
}

/// Waits for an answer, no longer than the Catalog should take.
///
/// # Errors
///
/// The Catalog's status, or UNAVAILABLE when it cannot be reached.
pub(crate) async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(|status| {
            if is_transport_error(&status) {
                tracing::debug!(%status, "catalog unreachable");
                return ServiceError::service_unavailable("catalog").into();
            }
            status
        }),
        Err(_) => Err(ServiceError::service_unavailable("catalog").into()),
    }
}

/// Returns whether the transport made the status, not the Catalog: such a status has no reason of ours.
fn is_transport_error(status: &Status) -> bool {
    let codes = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
    codes.contains(&status.code()) && status.get_error_details().error_info().is_none()
}

/// Repeats a call while the Catalog cannot be reached. `None` when the process stops meanwhile.
///
/// # Errors
///
/// The Catalog's errors.
pub(crate) async fn with_retry<T, F: Future<Output = Result<T, Status>>>(
    shutdown: &CancellationToken,
    call: impl FnMut() -> F,
) -> Option<Result<T, ServiceError>> {
    let is_away = |status: &Status| status.code() == Code::Unavailable;
    let result = RetryPolicy::CATALOG.run_until_stopped(shutdown, call, is_away).await;
    result.map(|result| result.map_err(Into::into))
}
