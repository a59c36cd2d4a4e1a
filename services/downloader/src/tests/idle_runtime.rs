//! A Runtime that only knows which models are loaded.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures::Stream;
use millm_kit::Channel;
use millm_proto::runtime::v1::{
    DetokenizeRequest, DetokenizeResponse, EstimateMemoryRequest, GenerateRequest, GenerateResponse,
    GetStatusRequest, LoadModelRequest, LoadProgress, LoadState, LoadedModel, MemoryEstimate, RuntimeStatus,
    TokenizeRequest, TokenizeResponse, UnloadModelRequest, UnloadProgress, WatchStatusRequest,
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
};
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Debug, Clone, Default)]
pub struct IdleRuntime {
    loaded: Arc<Mutex<Vec<i64>>>,
}

impl IdleRuntime {
    pub fn channel(&self) -> Channel {
        Channel::local(RuntimeServiceServer::new(self.clone()))
    }

    pub fn set_loaded(&self, ids: &[i64]) {
        *self.loaded.lock().unwrap() = ids.to_vec();
    }
}

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl RuntimeService for IdleRuntime {
    type WatchStatusStream = Messages<RuntimeStatus>;
    type LoadModelStream = Messages<LoadProgress>;
    type UnloadModelStream = Messages<UnloadProgress>;
    type GenerateStream = Messages<GenerateResponse>;

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Answer<RuntimeStatus> {
        let loaded = |id: &i64| LoadedModel {
            model_id: *id,
            state: LoadState::Loaded.into(),
            ..LoadedModel::default()
        };
        let models = self.loaded.lock().unwrap().iter().map(loaded).collect();
        Ok(Response::new(RuntimeStatus { models, ..RuntimeStatus::default() }))
    }
    async fn watch_status(&self, _: Request<WatchStatusRequest>) -> Answer<Self::WatchStatusStream> {
        not_here()
    }
    async fn estimate_memory(&self, _: Request<EstimateMemoryRequest>) -> Answer<MemoryEstimate> {
        not_here()
    }
    async fn load_model(&self, _: Request<LoadModelRequest>) -> Answer<Self::LoadModelStream> {
        not_here()
    }
    async fn unload_model(&self, _: Request<UnloadModelRequest>) -> Answer<Self::UnloadModelStream> {
        not_here()
    }
    async fn generate(&self, _: Request<GenerateRequest>) -> Answer<Self::GenerateStream> {
        not_here()
    }
    async fn tokenize(&self, _: Request<TokenizeRequest>) -> Answer<TokenizeResponse> {
        not_here()
    }
    async fn detokenize(&self, _: Request<DetokenizeRequest>) -> Answer<DetokenizeResponse> {
        not_here()
    }
}
