//! What the Runtime asks of the Catalog: the row behind a name, and which names change.

use millm_kit::{Conn, ModelRef, Reason, ServiceError};
use millm_proto::catalog::v1::{
    GetModelRequest, Model, WatchModelsRequest, WatchModelsResponse,
    catalog_service_client::CatalogServiceClient, model,
};

#[derive(Debug, Clone)]
pub struct Catalog(CatalogServiceClient<Conn>);

impl Catalog {
    pub fn new(conn: Conn) -> Self {
        Self(CatalogServiceClient::new(conn))
    }

    /// By resource name, id or handle. MODEL_NOT_FOUND, or SERVICE_UNAVAILABLE while the Catalog is away.
    pub async fn find(&self, name: &str) -> Result<Model, ServiceError> {
        ModelRef::parse(name)?;
        let request = GetModelRequest { name: name.to_owned() };
        let answer = self.0.clone().get_model(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| match ServiceError::from(&status) {
            away if away.reason == Reason::ServiceUnavailable => ServiceError::service_unavailable("catalog"),
            error => error,
        })
    }

    /// All rows, then each change, until the Catalog goes away.
    pub async fn watch(&self) -> Result<tonic::Streaming<WatchModelsResponse>, ServiceError> {
        Ok(self.0.clone().watch_models(WatchModelsRequest {}).await?.into_inner())
    }

    /// The row of a name, only when the model can be loaded: else MODEL_NOT_READY.
    pub async fn ready(&self, name: &str) -> Result<Model, ServiceError> {
        let model = self.find(name).await?;
        match model.state() {
            model::State::Ready => Ok(model),
            model::State::Error => Err(ServiceError::not_ready(&model.handle, "failed to download")),
            model::State::Deleting => Err(ServiceError::not_ready(&model.handle, "is being removed")),
            model::State::Pending | model::State::Unspecified => {
                Err(ServiceError::not_ready(&model.handle, "is still downloading"))
            }
        }
    }
}
