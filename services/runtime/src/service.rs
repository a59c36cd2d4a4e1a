//! The gRPC face: names resolved, requests checked, streams shaped. The work is in the modules beside.

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
    catalog::Catalog,
    estimate, failure,
    generate::generate,
    loader::{Loader, Phase, Place, Plan, Resident, Turn},
    status,
};

/// A last-value channel as a stream may send each value once; two sendings are at least so far apart.
const APART: Duration = Duration::from_millis(50);

pub struct Service {
    pub catalog: Catalog,
    pub loader: Loader,
    pub shutdown: Shutdown,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<RuntimeStatus>, Status> {
        Ok(Response::new(status::now(&self.loader)))
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
        let ground = &self.loader.ground;
        let opened = estimate::open(&model, ground, given(context_length)).await?;
        let room = self.loader.room(model.id, opened.estimate.total_bytes as u64);
        Ok(Response::new(estimate::against(opened.estimate, room.available)))
    }

    type LoadModelStream = BoxStream<LoadProgress>;

    async fn load_model(
        &self,
        request: Request<LoadModelRequest>,
    ) -> Result<Response<Self::LoadModelStream>, Status> {
        let request = request.into_inner();
        let drain = self.drain(request.drain_timeout)?;
        let model = self.catalog.ready(&request.model).await?;
        let context_length = given(request.context_length);
        let allow_insufficient_memory = request.allow_insufficient_memory;
        let plan = Plan { model, context_length, allow_insufficient_memory, drain };
        let progress = self.loader.load(plan).await?;
        let last =
            |progress: &LoadProgress| matches!(progress.state(), LoadState::Loaded | LoadState::Failed);
        Ok(Response::new(Box::pin(follow(progress, last))))
    }

    type UnloadModelStream = BoxStream<UnloadProgress>;

    async fn unload_model(
        &self,
        request: Request<UnloadModelRequest>,
    ) -> Result<Response<Self::UnloadModelStream>, Status> {
        let UnloadModelRequest { model, drain_timeout } = request.into_inner();
        let drain = self.drain(drain_timeout)?;
        let named = if model.is_empty() { self.the_one()? } else { self.named(&model).await? };
        let progress = self.loader.unload(named, drain).await?;
        let last = |progress: &UnloadProgress| progress.state() == LoadState::Unloaded;
        Ok(Response::new(Box::pin(follow(progress, last))))
    }

    type GenerateStream = BoxStream<GenerateResponse>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let request = request.into_inner();
        let Claim { resident, turn, handle } = self.claim(&request.model).await?;
        Ok(Response::new(Box::pin(generate(resident, turn, handle, request).await?)))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let TokenizeRequest { model, text, add_special_tokens } = request.into_inner();
        let language = Arc::clone(&self.claim(&model).await?.resident.language);
        let token_ids = language.encode("text", text, add_special_tokens).await?;
        Ok(Response::new(TokenizeResponse { token_ids }))
    }

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let DetokenizeRequest { model, token_ids } = request.into_inner();
        let language = Arc::clone(&self.claim(&model).await?.resident.language);
        let work = move || language.decode(&token_ids);
        let text = tokio::task::spawn_blocking(work).await.map_err(failure::of_panic)??;
        Ok(Response::new(DetokenizeResponse { text }))
    }
}

impl Service {
    fn drain(&self, asked: Option<prost_types::Duration>) -> Result<Duration, ServiceError> {
        let Some(asked) = asked else { return Ok(self.loader.ground.drain) };
        asked.try_into().map_err(|_| ServiceError::invalid_argument("drain_timeout", "must be 0 or more"))
    }

    /// The model that an empty name means: the one used last, or else the one that is coming.
    fn the_one(&self) -> Result<(i64, String), ServiceError> {
        let state = self.loader.state();
        let models = state.borrow();
        let rank = |phase: &Phase| match phase {
            Phase::Loaded(resident) => Some((3, Some(resident.last_used()))),
            Phase::Unloading(resident, _) => Some((2, Some(resident.last_used()))),
            Phase::Loading(..) => Some((1, None)),
            Phase::Failed(_) => None,
        };
        let ranked = models.iter().filter_map(|(id, entry)| Some((rank(&entry.phase)?, *id, entry)));
        let latest = ranked.max_by_key(|(rank, ..)| *rank);
        latest.map(|(_, id, entry)| (id, entry.handle.clone())).ok_or_else(ServiceError::nothing_loaded)
    }

    /// Which model a name means now. What is loaded can be used by its id, and while the Catalog is away by the
    /// handle it was loaded under.
    async fn named(&self, name: &str) -> Result<(i64, String), ServiceError> {
        let reference = ModelRef::parse(name)?;
        let known = |matches: &dyn Fn(i64, &str) -> bool| {
            let state = self.loader.state();
            let models = state.borrow();
            let mut found = models.iter().filter(|(id, entry)| matches(**id, &entry.handle));
            found.next().map(|(id, entry)| (*id, entry.handle.clone()))
        };
        if let ModelRef::Id(id) = reference
            && let Some(found) = known(&|known, _| known == id)
        {
            return Ok(found);
        }
        match self.catalog.find(name).await {
            Ok(model) => Ok((model.id, model.handle)),
            Err(error) if error.reason == Reason::ServiceUnavailable => {
                known(&|_, handle| handle == name).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The loaded model of this name (empty: the one that is loaded), loaded for this where that is allowed.
    /// MODEL_NOT_FOUND, MODEL_NOT_LOADED, MODEL_LOADING; on demand also what a load is refused for.
    async fn claim(&self, name: &str) -> Result<Claim, ServiceError> {
        let (id, handle) = if name.is_empty() { self.the_one()? } else { self.named(name).await? };
        let (resident, turn) = match self.loader.place(id) {
            Place::Here(resident, turn) => (resident, turn),
            _ if self.loader.ground.on_demand => {
                self.loader.bring(self.catalog.ready(&id.to_string()).await?).await?
            }
            Place::Coming(..) => return Err(ServiceError::loading(handle)),
            Place::Leaving | Place::Absent => return Err(ServiceError::not_loaded(handle)),
        };
        Ok(Claim { resident, turn, handle })
    }
}

/// A loaded model, in use as long as the turn lasts.
struct Claim {
    resident: Arc<Resident>,
    turn: Turn,
    /// What the model is called now.
    handle: String,
}

/// proto3 has no unset number here: 0 is it.
fn given(context_length: u32) -> Option<u32> {
    (context_length > 0).then_some(context_length)
}

/// Each value once, the present one first, not more often than every [`APART`], to the last.
fn follow<T: Clone + Send + Sync + 'static>(
    mut values: watch::Receiver<T>,
    last: impl Fn(&T) -> bool + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send {
    stream! {
        loop {
            let now = values.borrow_and_update().clone();
            let over = last(&now);
            yield Ok(now);
            if over {
                break;
            }
            tokio::time::sleep(APART).await;
            if values.changed().await.is_err() && !last(&values.borrow()) {
                yield Err(ServiceError::service_unavailable("runtime").into());
                break;
            }
        }
    }
}
