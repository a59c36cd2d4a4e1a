//! The dependencies that every part of the Downloader shares.

use std::{sync::Arc, time::Duration};

use millm_dataset::AllowedFolders;
use millm_kit::{Channel, Secret, ServiceError, request_id};
use millm_model::memory::Workload;
use millm_proto::runtime::v1::{GetStatusRequest, LoadState, runtime_service_client::RuntimeServiceClient};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    catalog_client::CatalogClient,
    datasets::{DatasetsCatalog, jobs::DatasetJobs},
    hub::client::Hub,
    store::{disk_space::DiskSpace, hf_cache::HfCache, models_dir::ModelsDir},
};

const RUNTIME_TIMEOUT: Duration = Duration::from_secs(5);

/// Clients, folders and settings of one Downloader.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) hub: Hub,
    pub(crate) models_dir: ModelsDir,
    /// The cache of Hugging Face's own tools, where one is configured. It is only read.
    pub(crate) hf_cache: Option<HfCache>,
    pub(crate) catalog: CatalogClient,
    pub(crate) datasets: DatasetsCatalog,
    pub(crate) dataset_jobs: Arc<DatasetJobs>,
    /// The folders below which datasets of this machine may lie.
    pub(crate) dataset_folders: AllowedFolders,
    pub(crate) runtime: Channel,
    pub(crate) disk: Arc<dyn DiskSpace>,
    /// The load for which memory is estimated, from the server's settings.
    pub(crate) workload: Workload,
    /// The server's own token, for requests without one.
    pub(crate) token: Option<Secret>,
    pub(crate) max_concurrent_downloads: usize,
    /// Threads for quantizing; 0 means one per core.
    pub(crate) threads: usize,
    /// Tasks that run to their end although their caller has left.
    pub(crate) tasks: TaskTracker,
    /// Set when the process stops.
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    /// Returns the bytes that can still be written to the models folder.
    ///
    /// # Errors
    ///
    /// INTERNAL when the file system does not answer.
    pub(crate) fn available_bytes(&self) -> Result<u64, ServiceError> {
        self.disk
            .available(self.models_dir.root())
            .map_err(|error| ServiceError::internal(format!("statvfs: {error}")))
    }

    /// Returns whether the Runtime loads, holds or unloads the model.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE when the Runtime does not answer.
    pub(crate) async fn is_loaded(&self, id: i64) -> Result<bool, ServiceError> {
        let mut client = RuntimeServiceClient::new(self.runtime.clone());
        let call = client.get_status(GetStatusRequest {});
        let Ok(Ok(status)) = tokio::time::timeout(RUNTIME_TIMEOUT, call).await else {
            return Err(ServiceError::service_unavailable("runtime"));
        };
        let is_held = |state| matches!(state, LoadState::Loading | LoadState::Loaded | LoadState::Unloading);
        Ok(status.into_inner().models.iter().any(|model| model.model_id == id && is_held(model.state())))
    }

    /// Runs `work` to its end, whether or not the caller stays.
    ///
    /// # Errors
    ///
    /// Returns the error of `work`, or INTERNAL when it panicked.
    pub(crate) async fn run_to_completion<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
    ) -> Result<T, ServiceError> {
        self.tasks.spawn(request_id::inherit(work)).await.map_err(ServiceError::internal)?
    }
}
