//! What the handlers share: clients of the three services, and the facts of all three about models.

use std::collections::HashMap;

use millm_kit::{
    Conn, Reason, ServiceError,
    view::{self, ModelView},
};
use millm_proto::{
    catalog::v1::{GetModelRequest, ListModelsRequest, Model, catalog_service_client::CatalogServiceClient},
    downloader::v1::{Download, ListDownloadsRequest, downloader_service_client::DownloaderServiceClient},
    runtime::v1::{
        GetStatusRequest, LoadedModel, RuntimeStatus, runtime_service_client::RuntimeServiceClient,
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{Services, openai::Held};

/// Answers of our own services may be larger than strangers' requests.
const ANSWER_LIMIT: usize = 64 << 20;

pub struct App {
    pub services: Services,
    /// Generations of one request that run at once.
    pub parallel: usize,
    /// What answers that do not stream take of memory.
    pub held: Held,
    /// Endless answers end when this does.
    pub stopping: CancellationToken,
    pub tasks: TaskTracker,
}

impl App {
    pub fn catalog(&self) -> CatalogServiceClient<Conn> {
        CatalogServiceClient::new(self.services.catalog.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    pub fn downloader(&self) -> DownloaderServiceClient<Conn> {
        DownloaderServiceClient::new(self.services.downloader.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    pub fn runtime(&self) -> RuntimeServiceClient<Conn> {
        RuntimeServiceClient::new(self.services.runtime.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    /// `name` is an id or a handle.
    pub async fn model(&self, name: &str) -> Result<Model, ServiceError> {
        let request = GetModelRequest { name: name.to_owned() };
        Ok(self.catalog().get_model(request).await.map_err(from_catalog)?.into_inner())
    }

    /// All models whose handle, repository, path or architecture holds `query`.
    pub async fn models(&self, query: &str) -> Result<Vec<Model>, ServiceError> {
        let mut models = Vec::new();
        let mut request =
            ListModelsRequest { page_size: 1000, query: query.to_owned(), ..ListModelsRequest::default() };
        loop {
            let page = self.catalog().list_models(request.clone()).await.map_err(from_catalog)?.into_inner();
            models.extend(page.models);
            if page.next_page_token.is_empty() {
                return Ok(models);
            }
            request.page_token = page.next_page_token;
        }
    }

    pub async fn status(&self) -> Result<RuntimeStatus, ServiceError> {
        Ok(self.runtime().get_status(GetStatusRequest {}).await.map_err(from_runtime)?.into_inner())
    }

    /// What Downloader and Runtime say now. A model's list is shown without what does not answer.
    pub async fn facts(&self) -> Facts {
        let mut downloader = self.downloader();
        let downloads = async {
            let answer = downloader.list_downloads(ListDownloadsRequest {}).await.map_err(from_downloader)?;
            Ok::<_, ServiceError>(answer.into_inner().downloads)
        };
        let (downloads, status) = futures::join!(downloads, self.status());
        let absent = |error: &ServiceError| tracing::warn!("shown without: {error}");
        let downloads = downloads.inspect_err(absent).unwrap_or_default();
        let loaded = status.inspect_err(absent).unwrap_or_default().models;
        Facts {
            downloads: downloads.into_iter().map(|d| (d.model_id, d)).collect(),
            loaded: loaded.into_iter().map(|l| (l.model_id, l)).collect(),
        }
    }

    /// The model as people see it now.
    pub async fn view(&self, name: &str) -> Result<ModelView, ServiceError> {
        let (model, facts) = futures::join!(self.model(name), self.facts());
        Ok(facts.view(&model?))
    }
}

/// By model id.
#[derive(Default)]
pub struct Facts {
    pub downloads: HashMap<i64, Download>,
    pub loaded: HashMap<i64, LoadedModel>,
}

impl Facts {
    pub fn view(&self, model: &Model) -> ModelView {
        view::model(model, self.downloads.get(&model.id), self.loaded.get(&model.id))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
pub fn from_catalog(status: Status) -> ServiceError {
    from_service("catalog", &status)
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
pub fn from_downloader(status: Status) -> ServiceError {
    from_service("downloader", &status)
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
pub fn from_runtime(status: Status) -> ServiceError {
    from_service("runtime", &status)
}

/// The service's own error; when it could not be reached, which one that was, and not how it failed.
fn from_service(service: &str, status: &Status) -> ServiceError {
    let ours = status.get_error_details().error_info().is_some();
    if !ours && matches!(status.code(), Code::Unavailable | Code::Unknown) {
        tracing::warn!("{service}: {status}");
        return ServiceError::service_unavailable(service);
    }
    let error = ServiceError::from(status);
    if !ours && error.reason == Reason::Internal { ServiceError::internal(error) } else { error }
}
