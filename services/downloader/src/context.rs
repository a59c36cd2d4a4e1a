//! What every part of the Downloader works with.

use std::sync::Arc;

use millm_kit::{Conn, Secret, ServiceError};
use millm_model::memory::Workload;
use millm_proto::runtime::v1::{GetStatusRequest, LoadState, runtime_service_client::RuntimeServiceClient};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{cache::Cache, disk::DiskSpace, hub::Hub, hub_cache::HubCache, registry::Registry};

#[derive(Debug)]
pub struct Context {
    pub hub: Hub,
    pub cache: Cache,
    /// Of Hugging Face's own tools.
    pub hub_cache: Option<HubCache>,
    pub registry: Registry,
    pub runtime: Conn,
    pub disk: Arc<dyn DiskSpace>,
    /// For what memory is estimated: the server's settings.
    pub workload: Workload,
    /// The server's own token, for requests that bring none.
    pub token: Option<Secret>,
    pub downloads_at_once: usize,
    /// For quantizing; 0: one per core.
    pub threads: usize,
    /// What must come to its end although its caller has left.
    pub tasks: TaskTracker,
    pub stopping: CancellationToken,
}

impl Context {
    /// Bytes that can be written to the models folder.
    pub fn available_bytes(&self) -> Result<u64, ServiceError> {
        self.disk
            .available(self.cache.root())
            .map_err(|error| ServiceError::internal(format!("statvfs: {error}")))
    }

    /// Whether the Runtime holds the model in any way. Errors with SERVICE_UNAVAILABLE when it cannot be asked.
    pub async fn is_loaded(&self, id: i64) -> Result<bool, ServiceError> {
        let mut client = RuntimeServiceClient::new(self.runtime.clone());
        let ask = client.get_status(GetStatusRequest {});
        let answer = tokio::time::timeout(std::time::Duration::from_secs(5), ask).await;
        let Ok(Ok(status)) = answer else { return Err(ServiceError::service_unavailable("runtime")) };
        let holds = |state| matches!(state, LoadState::Loading | LoadState::Loaded | LoadState::Unloading);
        Ok(status.into_inner().models.iter().any(|model| model.model_id == id && holds(model.state())))
    }

    /// Runs `work` to its end, whether or not the caller stays.
    pub async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
    ) -> Result<T, ServiceError> {
        self.tasks.spawn(work).await.map_err(ServiceError::internal)?
    }
}
