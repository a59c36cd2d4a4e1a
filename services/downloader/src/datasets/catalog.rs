//! The Catalog's client for the rows of datasets. The Catalog may restart at any time: methods that end in `_with_retry`
//! wait until it answers again, or until this process stops.

use millm_kit::{Channel, ServiceError};
use millm_proto::catalog::v1::{
    CreateDatasetRequest, Dataset, DeleteDatasetRequest, GetDatasetRequest, ListDatasetsRequest,
    UpdateDatasetRequest, dataset::State, datasets_service_client::DatasetsServiceClient,
};
use prost_types::FieldMask;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::catalog_client::{MAX_MESSAGE_BYTES, PAGE_SIZE, answer, with_retry};

/// A client of the Catalog's datasets. It is cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct DatasetsCatalog {
    client: DatasetsServiceClient<Channel>,
}

impl DatasetsCatalog {
    /// Makes a client on a channel to the Catalog.
    pub(crate) fn new(channel: Channel) -> Self {
        Self { client: DatasetsServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES) }
    }

    /// Returns the row with this resource name, id or handle.
    ///
    /// # Errors
    ///
    /// DATASET_NOT_FOUND, SERVICE_UNAVAILABLE.
    pub(super) async fn get(&self, name: &str) -> Result<Dataset, ServiceError> {
        let request = GetDatasetRequest { name: name.to_owned() };
        Ok(answer(self.client.clone().get_dataset(request)).await?)
    }

    /// Creates a row.
    ///
    /// # Errors
    ///
    /// DATASET_ALREADY_EXISTS, INVALID_ARGUMENT, SERVICE_UNAVAILABLE.
    pub(super) async fn create(&self, dataset: Dataset) -> Result<Dataset, ServiceError> {
        let request = CreateDatasetRequest { dataset: Some(dataset) };
        Ok(answer(self.client.clone().create_dataset(request)).await?)
    }

    /// Writes the fields that `paths` names. With an etag, the row must be as it was read.
    ///
    /// # Errors
    ///
    /// CONFLICT when the etag is old, DATASET_NOT_FOUND, INVALID_ARGUMENT, SERVICE_UNAVAILABLE.
    pub(super) async fn update(&self, dataset: &Dataset, paths: &[&str]) -> Result<Dataset, ServiceError> {
        Ok(self.try_update(dataset.clone(), paths).await?)
    }

    /// Deletes a row. A row that is gone already counts as deleted.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE.
    pub(super) async fn delete(&self, id: i64) -> Result<(), ServiceError> {
        let request = DeleteDatasetRequest { name: format!("datasets/{id}"), ..Default::default() };
        match answer(self.client.clone().delete_dataset(request)).await {
            // NotFound counts as success.
            Err(status) if status.code() == Code::NotFound => Ok(()),
            other => Ok(other?),
        }
    }

    /// Returns the row of the same source as `wanted`: the repository, configuration and split, or the path. Where a
    /// handle is wanted, the row has it.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE.
    pub(super) async fn find_same(&self, wanted: &Dataset) -> Result<Option<Dataset>, ServiceError> {
        let is_same = |row: &Dataset| {
            row.source == wanted.source
                && row.repo_id.eq_ignore_ascii_case(&wanted.repo_id)
                && (&row.config, &row.split, &row.local_path)
                    == (&wanted.config, &wanted.split, &wanted.local_path)
                && (wanted.handle.is_empty() || row.handle == wanted.handle)
        };
        Ok(self.try_list().await?.into_iter().find(is_same))
    }

    /// Returns all rows. `None` when the process stops meanwhile.
    ///
    /// # Errors
    ///
    /// INTERNAL.
    pub(super) async fn list_with_retry(
        &self,
        stopping: &CancellationToken,
    ) -> Option<Result<Vec<Dataset>, ServiceError>> {
        with_retry(stopping, || self.try_list()).await
    }

    /// Writes the fields that `paths` names. `None` when the process stops meanwhile.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::update`], except that the Catalog does not answer.
    pub(super) async fn update_with_retry(
        &self,
        stopping: &CancellationToken,
        dataset: &Dataset,
        paths: &[&str],
    ) -> Option<Result<Dataset, ServiceError>> {
        with_retry(stopping, || self.try_update(dataset.clone(), paths)).await
    }

    /// Sets the state to ERROR with this error. `None` when the process stops meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Self::update_with_retry`].
    pub(super) async fn fail_with_retry(
        &self,
        stopping: &CancellationToken,
        id: i64,
        error: &ServiceError,
    ) -> Option<Result<Dataset, ServiceError>> {
        let mut row =
            Dataset { name: format!("datasets/{id}"), error: Some(error.to_rpc()), ..Dataset::default() };
        row.set_state(State::Error);
        self.update_with_retry(stopping, &row, &["state", "error"]).await
    }

    async fn try_update(&self, dataset: Dataset, paths: &[&str]) -> Result<Dataset, Status> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let request = UpdateDatasetRequest { dataset: Some(dataset), update_mask: Some(FieldMask { paths }) };
        answer(self.client.clone().update_dataset(request)).await
    }

    async fn try_list(&self) -> Result<Vec<Dataset>, Status> {
        let mut datasets = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListDatasetsRequest { page_size: PAGE_SIZE, page_token };
            let page = answer(self.client.clone().list_datasets(request)).await?;
            datasets.extend(page.datasets);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(datasets);
            }
        }
    }
}
