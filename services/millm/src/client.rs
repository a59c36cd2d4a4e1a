//! The command line's connection to a server. The gateway's port carries all services.

use anyhow::{Context as _, Result};
use millm_kit::{Channel, ServiceError, Settings};
use millm_proto::{
    catalog::v1::{
        GetModelRequest, Model, catalog_service_client::CatalogServiceClient,
        datasets_service_client::DatasetsServiceClient, templates_service_client::TemplatesServiceClient,
    },
    downloader::v1::downloader_service_client::DownloaderServiceClient,
    inspection::v1::inspection_service_client::InspectionServiceClient,
    runtime::v1::runtime_service_client::RuntimeServiceClient,
};

use crate::output::Misuse;

/// The gateway's port unless the settings name another.
pub const GATEWAY_PORT: u16 = 8000;

/// The largest answer, in bytes: rows of datasets and lists of files exceed gRPC's 4 MiB.
const ANSWER_LIMIT: usize = 64 << 20;

/// A server as the commands call it.
pub struct Server {
    channel: Channel,
    /// For the error when no server answers.
    pub url: String,
}

impl Server {
    /// Connects to `url` (`--server`), else to the address that the settings would serve on.
    pub fn new(url: Option<&str>, settings: &Settings) -> Result<Self> {
        let url = url.map_or_else(
            || {
                let ip = if settings.host.is_unspecified() { [127, 0, 0, 1].into() } else { settings.host };
                format!("http://{}", std::net::SocketAddr::new(ip, settings.port.unwrap_or(GATEWAY_PORT)))
            },
            ToOwned::to_owned,
        );
        let parsed = url.parse().map_err(|e| Misuse(format!("--server '{url}': {e}")))?;
        let channel = Channel::remote(&parsed)
            .with_context(|| Misuse(format!("--server '{url}' is not an address")))?;
        Ok(Self { channel, url })
    }

    /// Returns a client of the Catalog.
    pub fn catalog(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.channel.clone())
    }

    /// Returns a client of the Downloader.
    pub fn downloader(&self) -> DownloaderServiceClient<Channel> {
        DownloaderServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    pub fn datasets(&self) -> DatasetsServiceClient<Channel> {
        DatasetsServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    pub fn templates(&self) -> TemplatesServiceClient<Channel> {
        TemplatesServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    pub fn inspection(&self) -> InspectionServiceClient<Channel> {
        InspectionServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT)
    }

    /// Returns a client of the Runtime.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    /// Returns a model by its name or id.
    pub async fn model(&self, name: &str) -> Result<Model> {
        let request = GetModelRequest { name: name.to_owned() };
        Ok(self.catalog().get_model(request).await.map_err(|s| self.explain(&s))?.into_inner())
    }

    /// Returns the service's error, or the address and a hint when no server answers.
    pub fn explain(&self, status: &tonic::Status) -> anyhow::Error {
        let unreachable = status.code() == tonic::Code::Unavailable
            && status.metadata().get("grpc-status-details-bin").is_none()
            && status.details().is_empty();
        if unreachable || status.code() == tonic::Code::Unknown && status.message().contains("connect") {
            let mut error = ServiceError::service_unavailable("server");
            error.message = format!("No server answers at {}.", self.url);
            return anyhow::Error::new(error)
                .context(crate::output::Hint("start one with 'millm serve'".into()));
        }
        ServiceError::from(status).into()
    }
}
