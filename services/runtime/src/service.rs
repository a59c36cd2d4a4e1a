//! The gRPC service: resolves names, checks requests, and makes streams. The work is in the other modules.

use std::{pin::Pin, sync::Arc, time::Duration};

use async_stream::stream;
use futures::{Stream, StreamExt as _};
use millm_kit::{ModelRef, Reason, ServiceError, Shutdown};
use millm_proto::runtime::v1::{
    DetokenizeRequest, DetokenizeResponse, EstimateMemoryRequest, GenerateRequest, GenerateResponse,
    GetStatusRequest, LoadModelRequest, LoadProgress, LoadState, MemoryEstimate, RuntimeStatus,
    TokenizeRequest, TokenizeResponse, UnloadModelRequest, UnloadProgress, WatchStatusRequest,
    runtime_service_server::RuntimeService,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    catalog_client::CatalogClient,
    error, estimate,
    generate::generate,
    loader::{LoadRequest, LoadedModel, Loader, Lookup, Phase, RequestGuard},
    status,
};

/// The shortest time between two messages of a progress stream.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// The service.
pub(crate) struct Service {
    pub catalog: CatalogClient,
    pub loader: Loader,
    pub shutdown: Shutdown,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<RuntimeStatus>, Status> {
        Ok(Response::new(status::snapshot(&self.loader)))
    }

    type WatchStatusStream = BoxStream<RuntimeStatus>;

    async fn watch_status(
        &self,
        _: Request<WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let statuses = status::watch(self.loader.clone(), self.shutdown.clone());
        Ok(Response::new(Box::pin(statuses.map(Ok))))
    }

    async fn estimate_memory(
        &self,
        request: Request<EstimateMemoryRequest>,
    ) -> Result<Response<MemoryEstimate>, Status> {
        let EstimateMemoryRequest { model, context_length } = request.into_inner();
        let model = self.catalog.ready(&model).await?;
        let opened = estimate::open(&model, &self.loader.options, nonzero(context_length)).await?;
        let eviction = self.loader.eviction(model.id, opened.estimate.total_bytes as u64);
        Ok(Response::new(estimate::with_available(opened.estimate, eviction.available)))
    }

    type LoadModelStream = BoxStream<LoadProgress>;

    async fn load_model(
        &self,
        request: Request<LoadModelRequest>,
    ) -> Result<Response<Self::LoadModelStream>, Status> {
        let request = request.into_inner();
        let drain = self.drain(request.drain_timeout)?;
        let model = self.catalog.ready(&request.model).await?;
        let context_length = nonzero(request.context_length);
        let allow_insufficient_memory = request.allow_insufficient_memory;
        let request = LoadRequest { model, context_length, allow_insufficient_memory, drain };
        let progress = self.loader.load(request).await?;
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
            if model.is_empty() { self.default_model()? } else { self.resolve(&model).await? };
        let progress = self.loader.unload(id, handle, drain).await?;
        let is_last = |progress: &UnloadProgress| progress.state() == LoadState::Unloaded;
        Ok(Response::new(Box::pin(progress_stream(progress, is_last))))
    }

    type GenerateStream = BoxStream<GenerateResponse>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let request = request.into_inner();
        let Acquired { model, guard, handle } = self.acquire(&request.model).await?;
        Ok(Response::new(Box::pin(generate(model, guard, handle, request).await?)))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let TokenizeRequest { model, text, add_special_tokens } = request.into_inner();
        let tokenizer = Arc::clone(&self.acquire(&model).await?.model.tokenizer);
        let token_ids = tokenizer.encode("text", text, add_special_tokens).await?;
        Ok(Response::new(TokenizeResponse { token_ids }))
    }

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let DetokenizeRequest { model, token_ids } = request.into_inner();
        let tokenizer = Arc::clone(&self.acquire(&model).await?.model.tokenizer);
        let decode = move || tokenizer.decode(&token_ids);
        let text = tokio::task::spawn_blocking(decode).await.map_err(error::from_panic)??;
        Ok(Response::new(DetokenizeResponse { text }))
    }
}

impl Service {
    /// Returns how long to wait for running requests: the caller's time, else the setting.
    fn drain(&self, asked: Option<prost_types::Duration>) -> Result<Duration, ServiceError> {
        let Some(asked) = asked else { return Ok(self.loader.options.drain) };
        asked.try_into().map_err(|_| ServiceError::invalid_argument("drain_timeout", "must be 0 or more"))
    }

    /// Returns the model that an empty name means: the loaded model that was used last, else the one that is loading.
    fn default_model(&self) -> Result<(i64, String), ServiceError> {
        let list = self.loader.models();
        let models = list.borrow();
        let rank = |phase: &Phase| match phase {
            Phase::Loaded(model) => Some((3, Some(model.last_used()))),
            Phase::Unloading(model, _) => Some((2, Some(model.last_used()))),
            Phase::Loading(..) => Some((1, None)),
            Phase::Failed(_) => None,
        };
        let ranked = models.iter().filter_map(|(id, entry)| Some((rank(&entry.phase)?, *id, entry)));
        let latest = ranked.max_by_key(|(rank, ..)| *rank);
        latest.map(|(_, id, entry)| (id, entry.handle.clone())).ok_or_else(ServiceError::nothing_loaded)
    }

    /// Returns the id and handle of the model that a name means now.
    ///
    /// Models in the list are found by their ids, and by their handles while the catalog does not answer.
    async fn resolve(&self, name: &str) -> Result<(i64, String), ServiceError> {
        let reference = ModelRef::parse(name)?;
        let find_listed = |matches: &dyn Fn(i64, &str) -> bool| {
            let list = self.loader.models();
            let models = list.borrow();
            let mut found = models.iter().filter(|(id, entry)| matches(**id, &entry.handle));
            found.next().map(|(id, entry)| (*id, entry.handle.clone()))
        };
        if let ModelRef::Id(id) = reference
            && let Some(found) = find_listed(&|listed, _| listed == id)
        {
            return Ok(found);
        }
        match self.catalog.find(name).await {
            Ok(model) => Ok((model.id, model.handle)),
            Err(error) if error.reason == Reason::ServiceUnavailable => {
                find_listed(&|_, handle| handle == name).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the loaded model that a name means, for one request. Loads it first if the settings allow that.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_FOUND, MODEL_NOT_LOADED or MODEL_LOADING; on demand also the errors of a load.
    async fn acquire(&self, name: &str) -> Result<Acquired, ServiceError> {
        let (id, handle) = if name.is_empty() { self.default_model()? } else { self.resolve(name).await? };
        let (model, guard) = match self.loader.lookup(id) {
            Lookup::Loaded(model, guard) => (model, guard),
            _ if self.loader.options.load_on_demand => {
                self.loader.load_on_demand(self.catalog.ready(&id.to_string()).await?).await?
            }
            Lookup::Loading(..) => return Err(ServiceError::loading(handle)),
            Lookup::Unloading | Lookup::NotLoaded => return Err(ServiceError::not_loaded(handle)),
        };
        Ok(Acquired { model, guard, handle })
    }
}

/// A loaded model that a request uses while it keeps the guard.
struct Acquired {
    model: Arc<LoadedModel>,
    guard: RequestGuard,
    /// The model's handle now.
    handle: String,
}

/// Returns `None` for 0, which means unset in proto3.
fn nonzero(context_length: u32) -> Option<u32> {
    (context_length > 0).then_some(context_length)
}

/// Returns a stream of the present value and of later ones, at most one in [`MIN_INTERVAL`], up to the last.
fn progress_stream<T: Clone + Send + Sync + 'static>(
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
