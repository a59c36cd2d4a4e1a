//! The service of datasets: creates, reads, lists, updates and deletes them. Their files are the Downloader's.

mod validate;

use std::sync::Arc;

use millm_kit::ServiceError;
use millm_proto::catalog::v1::{
    CreateDatasetRequest, Dataset, DeleteDatasetRequest, GetDatasetRequest, ListDatasetsRequest,
    ListDatasetsResponse, UpdateDatasetRequest, dataset::State, datasets_service_server::DatasetsService,
};
use tonic::{Request, Response, Status};

use crate::{
    context::Context,
    entities::{self, Entity, RowFacts, set_facts},
    field_mask::{self, masked},
    resource::{page_size, page_start, page_token},
    store::{After, DATASETS, Table},
};

/// The largest request, in bytes: a dataset may have thousands of files.
pub(crate) const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// The service.
pub(crate) struct Service {
    pub context: Arc<Context>,
}

impl Entity for Dataset {
    const COLLECTION: &'static str = "datasets";

    fn table() -> &'static Table {
        &DATASETS
    }

    fn handle(&self) -> &str {
        &self.handle
    }

    fn flag(&self) -> bool {
        self.state() == State::Pending
    }

    fn set_facts(&mut self, facts: RowFacts) {
        set_facts!(self, facts);
    }

    fn not_found(name: &str) -> ServiceError {
        ServiceError::dataset_not_found(name)
    }

    fn already_exists(id: i64, handle: &str) -> ServiceError {
        ServiceError::dataset_already_exists(id, handle)
    }
}

masked! {
    Dataset, "datasets";
    mutable: handle, revision, commit, files, format, rows, columns, column, state, error;
    immutable: name, id, source, repo_id, config, split, local_path, create_time, update_time, etag;
}

#[tonic::async_trait]
impl DatasetsService for Service {
    async fn create_dataset(
        &self,
        request: Request<CreateDatasetRequest>,
    ) -> Result<Response<Dataset>, Status> {
        let dataset = validate::new_dataset(request.into_inner().dataset.unwrap_or_default())?;
        let derived = validate::derive_handle(&dataset);
        Ok(Response::new(entities::create(&self.context, &dataset, derived).await?))
    }

    async fn get_dataset(&self, request: Request<GetDatasetRequest>) -> Result<Response<Dataset>, Status> {
        Ok(Response::new(entities::get(&self.context, &request.into_inner().name).await?))
    }

    async fn list_datasets(
        &self,
        request: Request<ListDatasetsRequest>,
    ) -> Result<Response<ListDatasetsResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let after = After::Id(page_start(&request.page_token)?);
        let (datasets, is_more) = entities::list::<Dataset>(&self.context, after, size).await?;
        let last = datasets.last().filter(|_| is_more);
        let next_page_token = last.map(|dataset| page_token(dataset.id)).unwrap_or_default();
        Ok(Response::new(ListDatasetsResponse { datasets, next_page_token }))
    }

    async fn update_dataset(
        &self,
        request: Request<UpdateDatasetRequest>,
    ) -> Result<Response<Dataset>, Status> {
        let UpdateDatasetRequest { dataset, update_mask } = request.into_inner();
        let (change, paths) = (dataset.unwrap_or_default(), update_mask.unwrap_or_default().paths);
        let apply = |dataset: &mut Dataset| {
            // An error belongs to the state ERROR.
            let names_error = field_mask::copy(dataset, &change, &paths, "error")?;
            if dataset.state() != State::Error && !names_error {
                dataset.error = None;
            }
            validate::check_handle(&dataset.handle)?;
            validate::check_fields(dataset)
        };
        Ok(Response::new(entities::update(&self.context, &change.name, &change.etag, apply).await?))
    }

    async fn delete_dataset(&self, request: Request<DeleteDatasetRequest>) -> Result<Response<()>, Status> {
        let DeleteDatasetRequest { name, etag } = request.into_inner();
        entities::delete::<Dataset>(&self.context, &name, &etag).await?;
        Ok(Response::new(()))
    }
}
