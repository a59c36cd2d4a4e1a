//! The client of the catalog: finds the row of a name, and watches for changes.

use millm_kit::{Channel, ModelRef, Reason, ServiceError};
use millm_proto::catalog::v1::{
    GetModelRequest, Model, WatchModelsRequest, WatchModelsResponse,
    catalog_service_client::CatalogServiceClient, model,
};

/// The client of the catalog. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CatalogClient(CatalogServiceClient<Channel>);

impl CatalogClient {
    /// Returns a client that calls the catalog through `channel`.
    pub fn new(channel: Channel) -> Self {
        Self(CatalogServiceClient::new(channel))
    }

    /// Finds a row by resource name, id or handle.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_FOUND, or SERVICE_UNAVAILABLE if the catalog does not answer.
    pub async fn find(&self, name: &str) -> Result<Model, ServiceError> {
        ModelRef::parse(name)?;
        let request = GetModelRequest { name: name.to_owned() };
        let response = self.0.clone().get_model(request).await;
        response.map(tonic::Response::into_inner).map_err(|status| match ServiceError::from(&status) {
            error if error.reason == Reason::ServiceUnavailable => {
                ServiceError::service_unavailable("catalog")
            }
            error => error,
        })
    }

    /// Returns a stream of all rows, then of each change.
    ///
    /// # Errors
    ///
    /// SERVICE_UNAVAILABLE if the catalog does not answer.
    pub async fn watch(&self) -> Result<tonic::Streaming<WatchModelsResponse>, ServiceError> {
        Ok(self.0.clone().watch_models(WatchModelsRequest {}).await?.into_inner())
    }

    /// Finds the row of a model that can be loaded.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_READY if the model is not downloaded, and the errors of [`CatalogClient::find`].
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
