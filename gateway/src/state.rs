//! The state that handlers share: clients of the services, limits, and what the services know of models.

use std::collections::HashMap;

use millm_api::{Model, Status};
use millm_kit::{Channel, Reason, ServiceError};
use millm_proto::{
    catalog::v1::{
        self as catalog, GetModelRequest, ListModelsRequest, catalog_service_client::CatalogServiceClient,
        datasets_service_client::DatasetsServiceClient, templates_service_client::TemplatesServiceClient,
    },
    downloader::v1::{Download, ListDownloadsRequest, downloader_service_client::DownloaderServiceClient},
    inspection::v1::{
        Extraction, ListExtractionsRequest, inspection_service_client::InspectionServiceClient,
    },
    runtime::v1::{
        GetStatusRequest, LoadedModel, RuntimeStatus, runtime_service_client::RuntimeServiceClient,
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{Services, openai::AnswerMemory};

/// Answers of our own services may be larger than the requests of others.
const ANSWER_LIMIT: usize = 64 << 20;

/// The state of the gateway's handlers.
pub struct AppState {
    /// Channels to the three services.
    pub services: Services,
    /// Generations of one request that run at once.
    pub parallel: usize,
    /// The memory of answers that do not stream.
    pub held: AnswerMemory,
    /// Cancelled when the server stops: endless answers end then.
    pub stopping: CancellationToken,
    /// Tasks that the server waits for.
    pub tasks: TaskTracker,
}

impl AppState {
    /// Returns a client of the Catalog.
    pub fn catalog(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.services.catalog.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    /// Returns a client of the Downloader.
    pub fn downloader(&self) -> DownloaderServiceClient<Channel> {
        DownloaderServiceClient::new(self.services.downloader.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    /// Returns a client of the Runtime.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.services.runtime.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    /// Returns a client of the Catalog's datasets.
    pub fn datasets(&self) -> DatasetsServiceClient<Channel> {
        DatasetsServiceClient::new(self.services.catalog.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    /// Returns a client of the Catalog's templates.
    pub fn templates(&self) -> TemplatesServiceClient<Channel> {
        TemplatesServiceClient::new(self.services.catalog.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    /// Returns a client of the Runtime's inspection.
    pub fn inspection(&self) -> InspectionServiceClient<Channel> {
        InspectionServiceClient::new(self.services.runtime.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    /// Returns a row by its id, its handle or `models/{id}`.
    pub async fn row(&self, name: &str) -> Result<catalog::Model, ServiceError> {
        let request = GetModelRequest { name: name.to_owned() };
        Ok(self.catalog().get_model(request).await.map_err(from_catalog)?.into_inner())
    }

    /// Returns all rows whose handle, repository, path or architecture contains `query`.
    pub async fn rows(&self, query: &str) -> Result<Vec<catalog::Model>, ServiceError> {
        let mut rows = Vec::new();
        let mut request =
            ListModelsRequest { page_size: 1000, query: query.to_owned(), ..ListModelsRequest::default() };
        loop {
            let page = self.catalog().list_models(request.clone()).await.map_err(from_catalog)?.into_inner();
            rows.extend(page.models);
            if page.next_page_token.is_empty() {
                return Ok(rows);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Returns the extractions of a model, or of all models when `model` is empty.
    pub async fn extractions(&self, model: &str) -> Result<Vec<Extraction>, ServiceError> {
        let mut extractions = Vec::new();
        let mut request =
            ListExtractionsRequest { model: model.to_owned(), ..ListExtractionsRequest::default() };
        loop {
            let page = self.inspection().list_extractions(request.clone()).await.map_err(from_runtime)?;
            let page = page.into_inner();
            extractions.extend(page.extractions);
            if page.next_page_token.is_empty() {
                return Ok(extractions);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Returns the Runtime's status.
    pub async fn status(&self) -> Result<RuntimeStatus, ServiceError> {
        Ok(self.runtime().get_status(GetStatusRequest {}).await.map_err(from_runtime)?.into_inner())
    }

    /// Returns what the Downloader and the Runtime know now. A service that does not answer knows nothing: models are shown
    /// without it.
    pub async fn live_states(&self) -> LiveStates {
        let mut downloader = self.downloader();
        let downloads = async {
            let answer = downloader.list_downloads(ListDownloadsRequest {}).await.map_err(from_downloader)?;
            Ok::<_, ServiceError>(answer.into_inner().downloads)
        };
        let (downloads, status) = futures::join!(downloads, self.status());
        let absent = |error: &ServiceError| tracing::warn!("shown without: {error}");
        let downloads = downloads.inspect_err(absent).unwrap_or_default();
        let loaded = status.inspect_err(absent).unwrap_or_default().models;
        LiveStates {
            downloads: downloads.into_iter().map(|d| (d.model_id, d)).collect(),
            loaded: loaded.into_iter().map(|l| (l.model_id, l)).collect(),
        }
    }

    /// Returns a model as people see it now.
    pub async fn model(&self, name: &str) -> Result<Model, ServiceError> {
        let (row, live) = futures::join!(self.row(name), self.live_states());
        Ok(live.model(&row?))
    }
}

/// The downloads and loads of models, by model id, as the Downloader and the Runtime report them.
#[derive(Debug, Default)]
pub struct LiveStates {
    /// The Downloader's.
    pub downloads: HashMap<i64, Download>,
    /// The Runtime's.
    pub loaded: HashMap<i64, LoadedModel>,
}

impl LiveStates {
    /// Joins a row with what is known of it.
    pub fn model(&self, row: &catalog::Model) -> Model {
        Model::new(row, self.downloads.get(&row.id), self.loaded.get(&row.id))
    }

    /// Returns the status of a row.
    pub fn status(&self, row: &catalog::Model) -> Status {
        Status::of(row, self.downloads.get(&row.id), self.loaded.get(&row.id))
    }
}

/// Returns the error of a call of the Catalog.
#[expect(clippy::needless_pass_by_value, reason = "the signature that map_err asks for")]
pub fn from_catalog(status: tonic::Status) -> ServiceError {
    from_service("catalog", &status)
}

/// Returns the error of a call of the Downloader.
#[expect(clippy::needless_pass_by_value, reason = "the signature that map_err asks for")]
pub fn from_downloader(status: tonic::Status) -> ServiceError {
    from_service("downloader", &status)
}

/// Returns the error of a call of the Runtime.
#[expect(clippy::needless_pass_by_value, reason = "the signature that map_err asks for")]
pub fn from_runtime(status: tonic::Status) -> ServiceError {
    from_service("runtime", &status)
}

/// Returns the service's own error. When the service could not be reached, the error names the service, and the cause is
/// for the log.
fn from_service(service: &str, status: &tonic::Status) -> ServiceError {
    let ours = status.get_error_details().error_info().is_some();
    if !ours && matches!(status.code(), Code::Unavailable | Code::Unknown) {
        tracing::warn!("{service}: {status}");
        return ServiceError::service_unavailable(service);
    }
    let error = ServiceError::from(status);
    if !ours && error.reason == Reason::Internal { ServiceError::internal(error) } else { error }
}
