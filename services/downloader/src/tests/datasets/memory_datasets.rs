//! The Catalog's datasets in memory, with the rules that the Downloader relies on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use millm_kit::ServiceError;
use millm_proto::catalog::v1::{
    CreateDatasetRequest, Dataset, DeleteDatasetRequest, GetDatasetRequest, ListDatasetsRequest,
    ListDatasetsResponse, UpdateDatasetRequest, dataset::State, datasets_service_server::DatasetsService,
};
use tonic::{Request, Response, Status};

#[derive(Debug, Clone, Default)]
pub struct MemoryDatasets(Arc<Mutex<Rows>>);

#[derive(Debug, Default)]
struct Rows {
    all: BTreeMap<i64, Dataset>,
    last_id: i64,
    writes: u64,
}

impl Rows {
    fn put(&mut self, mut dataset: Dataset) -> Dataset {
        if dataset.id == 0 {
            self.last_id += 1;
            dataset.id = self.last_id;
        }
        self.writes += 1;
        dataset.name = format!("datasets/{}", dataset.id);
        dataset.etag = self.writes.to_string();
        self.all.insert(dataset.id, dataset.clone());
        dataset
    }

    fn find(&self, name: &str) -> Result<Dataset, Status> {
        let id = name.trim_start_matches("datasets/").parse::<i64>().ok();
        let found = self.all.values().find(|row| Some(row.id) == id || row.handle == name).cloned();
        found.ok_or_else(|| ServiceError::dataset_not_found(name).into())
    }
}

impl MemoryDatasets {
    pub fn rows(&self) -> Vec<Dataset> {
        self.locked().all.values().cloned().collect()
    }

    /// Removes a row, whatever the rules say.
    pub fn lose(&self, id: i64) {
        self.locked().all.remove(&id);
    }

    fn locked(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap()
    }
}

#[tonic::async_trait]
impl DatasetsService for MemoryDatasets {
    async fn create_dataset(
        &self,
        request: Request<CreateDatasetRequest>,
    ) -> Result<Response<Dataset>, Status> {
        let mut dataset = request.into_inner().dataset.unwrap();
        let mut rows = self.locked();
        let is_taken = |handle: &str| rows.all.values().find(|row| row.handle == handle).map(|row| row.id);
        if dataset.handle.is_empty() {
            let path = if dataset.local_path.is_empty() { &dataset.repo_id } else { &dataset.local_path };
            let base = path.rsplit('/').next().unwrap().split('.').next().unwrap().to_owned();
            let mut names = std::iter::once(base.clone()).chain((2..).map(|n| format!("{base}-{n}")));
            dataset.handle = names.find(|name| is_taken(name).is_none()).unwrap();
        } else if let Some(id) = is_taken(&dataset.handle) {
            return Err(ServiceError::dataset_already_exists(id, &dataset.handle).into());
        }
        dataset.set_state(State::Pending);
        Ok(Response::new(rows.put(dataset)))
    }

    async fn get_dataset(&self, request: Request<GetDatasetRequest>) -> Result<Response<Dataset>, Status> {
        self.locked().find(&request.into_inner().name).map(Response::new)
    }

    async fn list_datasets(
        &self,
        _: Request<ListDatasetsRequest>,
    ) -> Result<Response<ListDatasetsResponse>, Status> {
        let datasets = self.rows();
        Ok(Response::new(ListDatasetsResponse { datasets, ..ListDatasetsResponse::default() }))
    }

    async fn update_dataset(
        &self,
        request: Request<UpdateDatasetRequest>,
    ) -> Result<Response<Dataset>, Status> {
        let UpdateDatasetRequest { dataset, update_mask } = request.into_inner();
        let change = dataset.unwrap();
        let mut rows = self.locked();
        let mut row = rows.find(&change.name)?;
        if !change.etag.is_empty() && change.etag != row.etag {
            return Err(ServiceError::conflict(&row.handle).into());
        }
        for path in update_mask.unwrap().paths {
            match path.as_str() {
                "state" => row.state = change.state,
                "error" => row.error.clone_from(&change.error),
                "revision" => row.revision.clone_from(&change.revision),
                "commit" => row.commit.clone_from(&change.commit),
                "files" => row.files.clone_from(&change.files),
                "format" => row.format = change.format,
                "rows" => row.rows = change.rows,
                "columns" => row.columns.clone_from(&change.columns),
                "column" => row.column.clone_from(&change.column),
                other => panic!("the Downloader writes '{other}'"),
            }
        }
        Ok(Response::new(rows.put(row)))
    }

    async fn delete_dataset(&self, request: Request<DeleteDatasetRequest>) -> Result<Response<()>, Status> {
        let mut rows = self.locked();
        let row = rows.find(&request.into_inner().name)?;
        rows.all.remove(&row.id);
        Ok(Response::new(()))
    }
}
