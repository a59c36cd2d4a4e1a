//! The command line's connection: the gateway's port carries all three services.

use anyhow::{Context as _, Result};
use millm_kit::{Conn, ServiceError, Settings};
use millm_proto::{
    catalog::v1::{GetModelRequest, Model, catalog_service_client::CatalogServiceClient},
    downloader::v1::downloader_service_client::DownloaderServiceClient,
    runtime::v1::runtime_service_client::RuntimeServiceClient,
};

use crate::output::Misuse;

pub struct Server {
    conn: Conn,
    /// As shown when it does not answer.
    pub url: String,
}

impl Server {
    /// `url`: `--server`; else where the settings would serve.
    pub fn new(url: Option<&str>, settings: &Settings) -> Result<Self> {
        let url = url.map_or_else(
            || {
                let ip = if settings.host.is_unspecified() { [127, 0, 0, 1].into() } else { settings.host };
                format!(
                    "http://{}",
                    std::net::SocketAddr::new(ip, settings.port.unwrap_or(crate::serve::GATEWAY_PORT))
                )
            },
            ToOwned::to_owned,
        );
        let parsed = url.parse().map_err(|e| Misuse(format!("--server '{url}': {e}")))?;
        let conn =
            Conn::remote(&parsed).with_context(|| Misuse(format!("--server '{url}' is not an address")))?;
        Ok(Self { conn, url })
    }

    pub fn catalog(&self) -> CatalogServiceClient<Conn> {
        CatalogServiceClient::new(self.conn.clone())
    }

    pub fn downloader(&self) -> DownloaderServiceClient<Conn> {
        DownloaderServiceClient::new(self.conn.clone())
    }

    pub fn runtime(&self) -> RuntimeServiceClient<Conn> {
        RuntimeServiceClient::new(self.conn.clone())
    }

    pub async fn model(&self, name: &str) -> Result<Model> {
        let request = GetModelRequest { name: name.to_owned() };
        Ok(self.catalog().get_model(request).await.map_err(|s| self.explain(&s))?.into_inner())
    }

    /// The service's own error; when nobody answers, where we looked and how to start a server.
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
