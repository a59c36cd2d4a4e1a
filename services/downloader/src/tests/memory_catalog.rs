//! A Catalog in memory, with the rules that the Downloader relies on, and a switch that makes it unavailable.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::SystemTime,
};

use futures::Stream;
use millm_kit::{Channel, ServiceError};
use millm_proto::catalog::v1::{
    CreateModelRequest, DeleteModelRequest, GetModelRequest, ListModelsRequest, ListModelsResponse, Model,
    UpdateModelRequest, WatchModelsRequest, WatchModelsResponse,
    catalog_service_server::{CatalogService, CatalogServiceServer},
    datasets_service_server::DatasetsServiceServer,
    model::State,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::datasets::memory_datasets::MemoryDatasets;

#[derive(Debug, Clone, Default)]
pub struct MemoryCatalog(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rows: Mutex<BTreeMap<i64, Model>>,
    last_id: Mutex<i64>,
    writes: AtomicU64,
    away: AtomicBool,
    refused: watch::Sender<u64>,
    identity: String,
    datasets: MemoryDatasets,
}

impl MemoryCatalog {
    /// Makes a catalog with an id of its own.
    pub fn named(identity: &str) -> Self {
        Self(Arc::new(Inner { identity: identity.to_owned(), ..Inner::default() }))
    }

    /// Removes a row, whatever the rules say.
    pub fn lose(&self, id: i64) {
        self.locked().remove(&id);
    }

    pub fn channel(&self) -> Channel {
        let datasets = DatasetsServiceServer::new(self.0.datasets.clone());
        Channel::local(CatalogServiceServer::new(self.clone())).join(Channel::local(datasets))
    }

    /// Returns the rows of datasets.
    pub fn datasets(&self) -> &MemoryDatasets {
        &self.0.datasets
    }

    /// While it is away, calls fail as if nothing listened.
    pub fn set_away(&self, away: bool) {
        self.0.away.store(away, SeqCst);
    }

    /// Waits for a call while it is away.
    pub async fn missed(&self) {
        self.0.refused.subscribe().wait_for(|calls| *calls > 0).await.unwrap();
    }

    pub fn rows(&self) -> Vec<Model> {
        self.locked().values().cloned().collect()
    }

    pub fn row(&self, id: i64) -> Model {
        self.locked()[&id].clone()
    }

    /// Writes a row as an earlier process may have left it, whatever the rules say.
    pub fn put(&self, mut model: Model) -> i64 {
        let mut last = self.0.last_id.lock().unwrap();
        if model.id == 0 {
            *last += 1;
            model.id = *last;
        }
        model.name = format!("models/{}", model.id);
        model.etag = self.0.writes.fetch_add(1, SeqCst).to_string();
        let id = model.id;
        self.locked().insert(id, model);
        id
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<i64, Model>> {
        self.0.rows.lock().unwrap()
    }

    fn present(&self) -> Result<(), Status> {
        if self.0.away.load(SeqCst) {
            self.0.refused.send_modify(|calls| *calls += 1);
            return Err(Status::unavailable("tcp connect error"));
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Model, Status> {
        self.present()?;
        let id = name.trim_start_matches("models/").parse::<i64>().ok();
        let found = self.locked().values().find(|row| Some(row.id) == id || row.handle == name).cloned();
        found.ok_or_else(|| ServiceError::model_not_found(name).into())
    }
}

fn key(model: &Model) -> (String, String, String, i32) {
    let quantization = if model.local_path.is_empty() { model.requested_quantization } else { 0 };
    (model.repo_id.to_lowercase(), model.file.clone(), model.local_path.clone(), quantization)
}

#[tonic::async_trait]
impl CatalogService for MemoryCatalog {
    async fn create_model(&self, request: Request<CreateModelRequest>) -> Result<Response<Model>, Status> {
        self.present()?;
        let mut model = request.into_inner().model.unwrap();
        if let Some(other) = self.rows().into_iter().find(|row| key(row) == key(&model)) {
            return Err(ServiceError::model_already_exists(other.id, &other.handle, "").into());
        }
        if model.handle.is_empty() {
            let path = if model.local_path.is_empty() { &model.repo_id } else { &model.local_path };
            let base = path.rsplit('/').next().unwrap().to_owned();
            let taken = self.rows().iter().any(|row| row.handle == base);
            let quantization = millm_kit::quantization::name(model.requested_quantization()).to_lowercase();
            model.handle = if taken { format!("{base}-{quantization}") } else { base };
        }
        model.set_state(State::Pending);
        model.create_time = Some(SystemTime::now().into());
        let id = self.put(model);
        Ok(Response::new(self.row(id)))
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<Model>, Status> {
        self.find(&request.into_inner().name).map(Response::new)
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        self.present()?;
        let query = request.into_inner().query.to_lowercase();
        let matches = |row: &Model| {
            [&row.handle, &row.repo_id, &row.local_path]
                .iter()
                .any(|text| text.to_lowercase().contains(&query))
        };
        let models: Vec<_> = self.rows().into_iter().filter(matches).collect();
        let catalog_id = self.0.identity.clone();
        Ok(Response::new(ListModelsResponse { models, catalog_id, ..ListModelsResponse::default() }))
    }

    async fn update_model(&self, request: Request<UpdateModelRequest>) -> Result<Response<Model>, Status> {
        let UpdateModelRequest { model, update_mask } = request.into_inner();
        let change = model.unwrap();
        let mut row = self.find(&change.name)?;
        if !change.etag.is_empty() && change.etag != row.etag {
            return Err(ServiceError::conflict(&row.handle).into());
        }
        for path in update_mask.unwrap().paths {
            match path.as_str() {
                "state" => row.state = change.state,
                "error" => row.error.clone_from(&change.error),
                "revision" => row.revision.clone_from(&change.revision),
                "commit" => row.commit.clone_from(&change.commit),
                "trust_remote_code" => row.trust_remote_code = change.trust_remote_code,
                "storage_path" => row.storage_path.clone_from(&change.storage_path),
                "actual_quantization" => row.actual_quantization = change.actual_quantization,
                "quantization_reason" => row.quantization_reason.clone_from(&change.quantization_reason),
                "architecture" => row.architecture.clone_from(&change.architecture),
                "parameter_count" => row.parameter_count = change.parameter_count,
                "disk_size_bytes" => row.disk_size_bytes = change.disk_size_bytes,
                "memory_estimate_bytes" => row.memory_estimate_bytes = change.memory_estimate_bytes,
                "config_json" => row.config_json.clone_from(&change.config_json),
                "files" => row.files.clone_from(&change.files),
                "has_chat_template" => row.has_chat_template = change.has_chat_template,
                other => panic!("the Downloader writes '{other}'"),
            }
        }
        let id = self.put(row);
        Ok(Response::new(self.row(id)))
    }

    async fn delete_model(&self, request: Request<DeleteModelRequest>) -> Result<Response<()>, Status> {
        let row = self.find(&request.into_inner().name)?;
        self.locked().remove(&row.id);
        Ok(Response::new(()))
    }

    type WatchModelsStream = Pin<Box<dyn Stream<Item = Result<WatchModelsResponse, Status>> + Send>>;

    async fn watch_models(
        &self,
        _: Request<WatchModelsRequest>,
    ) -> Result<Response<Self::WatchModelsStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}
