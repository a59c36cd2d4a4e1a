//! The gRPC service: resolves names, checks requests, and makes streams. The work is in the other modules.

use std::{pin::Pin, sync::Arc, time::Duration};

use async_stream::stream;
use futures::{Stream, StreamExt as _};
use millm_kit::{ServiceError, Shutdown};
use millm_proto::runtime::v1::{
    DetokenizeRequest, DetokenizeResponse, EstimateMemoryRequest, GenerateRequest, GenerateResponse,
    GetStatusRequest, LoadModelRequest, LoadProgress, LoadState, MemoryEstimate, RuntimeStatus,
    TokenizeRequest, TokenizeResponse, UnloadModelRequest, UnloadProgress, WatchStatusRequest,
    runtime_service_server::RuntimeService,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    error, estimate,
    generate::generate,
    loader::LoadRequest,
    model_finder::{Acquired, ModelFinder},
    status,
};

/// The shortest time between two messages of a progress stream.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// The service.
pub(crate) struct Service {
    pub models: ModelFinder,
    pub shutdown: Shutdown,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<RuntimeStatus>, Status> {
        Ok(Response::new(status::snapshot(&self.models.loader)))
    }

    type WatchStatusStream = BoxStream<RuntimeStatus>;

    async fn watch_status(
        &self,
        _: Request<WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let statuses = status::watch(self.models.loader.clone(), self.shutdown.clone());
        Ok(Response::new(Box::pin(statuses.map(Ok))))
    }

    async fn estimate_memory(
        &self,
        request: Request<EstimateMemoryRequest>,
    ) -> Result<Response<MemoryEstimate>, Status> {
        let EstimateMemoryRequest { model, context_length } = request.into_inner();
        let model = self.models.catalog.ready(&model).await?;
        let opened = estimate::open(&model, &self.models.loader.options, nonzero(context_length)).await?;
        let eviction = self.models.loader.eviction(model.id, opened.estimate.total_bytes as u64);
        Ok(Response::new(estimate::with_available(opened.estimate, eviction.available)))
    }

    type LoadModelStream = BoxStream<LoadProgress>;

    async fn load_model(
        &self,
        request: Request<LoadModelRequest>,
    ) -> Result<Response<Self::LoadModelStream>, Status> {
        let request = request.into_inner();
        let drain = self.drain(request.drain_timeout)?;
        let model = self.models.catalog.ready(&request.model).await?;
        let context_length = nonzero(request.context_length);
        let allow_insufficient_memory = request.allow_insufficient_memory;
        let request = LoadRequest { model, context_length, allow_insufficient_memory, drain };
        let progress = self.models.loader.load(request).await?;
        let is_last =
            |progress: &LoadProgress| matches!(progress.state(), LoadState::Loaded | LoadState::Failed);
        Ok(Response::new(Box::pin(progress_stream(progress, is_last))))
    }

    type UnloadModelStream = BoxStream<UnloadProgress>;

    async fn unload_model(
        &self,
        request: Request<UnloadModelRequest>,
    ) -> Result<Response<Self::UnloadModelStream>, Status> {
        let UnloadModelRequest { model, drain_timeout } = request.into_inner();
        let drain = self.drain(drain_timeout)?;
        let (id, handle) =
            if model.is_empty() { self.models.default_model()? } else { self.models.resolve(&model).await? };
        let progress = self.models.loader.unload(id, handle, drain).await?;
        let is_last = |progress: &UnloadProgress| progress.state() == LoadState::Unloaded;
        Ok(Response::new(Box::pin(progress_stream(progress, is_last))))
    }

    type GenerateStream = BoxStream<GenerateResponse>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let request = request.into_inner();
        let Acquired { model, guard, handle } = self.models.acquire(&request.model).await?;
        Ok(Response::new(Box::pin(generate(model, guard, handle, request).await?)))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let TokenizeRequest { model, text, add_special_tokens } = request.into_inner();
        let tokenizer = Arc::clone(&self.models.acquire(&model).await?.model.tokenizer);
        let token_ids = tokenizer.encode("text", text, add_special_tokens).await?;
        Ok(Response::new(TokenizeResponse { token_ids }))
    }

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let DetokenizeRequest { model, token_ids } = request.into_inner();
        let tokenizer = Arc::clone(&self.models.acquire(&model).await?.model.tokenizer);
        let decode = move || tokenizer.decode(&token_ids);
        let text = tokio::task::spawn_blocking(decode).await.map_err(error::from_panic)??;
        Ok(Response::new(DetokenizeResponse { text }))
    }
}

impl Service {
    /// Returns how long to wait for running requests: the caller's time, else the setting.
    fn drain(&self, asked: Option<prost_types::Duration>) -> Result<Duration, ServiceError> {
        let Some(asked) = asked else { return Ok(self.models.loader.options.drain) };
        asked.try_into().map_err(|_| ServiceError::invalid_argument("drain_timeout", "must be 0 or more"))
    }
}

/// Returns `None` for 0, which means unset in proto3.
fn nonzero(context_length: u32) -> Option<u32> {
    (context_length > 0).then_some(context_length)
}

/// Returns a stream of the present value and of later ones, at most one in [`MIN_INTERVAL`], up to the last.
pub(crate) fn progress_stream<T: Clone + Send + Sync + 'static>(
    mut values: watch::Receiver<T>,
    is_last: impl Fn(&T) -> bool + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send {
    stream! {
        loop {
            let now = values.borrow_and_update().clone();
            let ends = is_last(&now);
            yield Ok(now);
            if ends {
                break;
            }
            tokio::time::sleep(MIN_INTERVAL).await;
            if values.changed().await.is_err() && !is_last(&values.borrow()) {
                yield Err(ServiceError::service_unavailable("runtime").into());
                break;
            }
        }
    }
}
