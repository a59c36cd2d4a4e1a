//! A Runtime on a small Catalog of its own, called through its gRPC face.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures::{Stream, StreamExt as _};
use millm_kit::{Conn, Host, Reason, ServiceError, Settings, Shutdown};
use millm_proto::{
    catalog::v1::{
        CreateModelRequest, DeleteModelRequest, GetModelRequest, ListModelsRequest, ListModelsResponse,
        Model, UpdateModelRequest, WatchModelsRequest, WatchModelsResponse,
        catalog_service_server::{CatalogService, CatalogServiceServer},
        model::State,
        watch_models_response::Kind,
    },
    runtime::v1::{
        GenerateEnd, GenerateRequest, GenerateResponse, LoadModelRequest, LoadProgress, LoadState,
        RuntimeStatus, UnloadModelRequest, UnloadProgress, WatchStatusRequest,
        runtime_service_client::RuntimeServiceClient,
    },
};
use millm_sandbox::Sandbox;
use tempfile::TempDir;
use tokio::sync::Notify;
use tonic::{Request, Response, Status, Streaming};

use crate::{Runtime, loader::Ground};

pub fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures"))
}

/// Models by id; only finding them is asked for here.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<BTreeMap<i64, Model>>>, Arc<Notify>);

impl Shelf {
    /// As [`Bench::start`] has it.
    pub fn stocked() -> Self {
        let shelf = Self::default();
        shelf.put(1, "tiny", fixtures().join("tiny-millm"), State::Ready);
        shelf.put(2, "tiny-q8", gguf("Q8_0"), State::Ready);
        shelf.put(3, "pending", fixtures().join("tiny-millm"), State::Pending);
        shelf.put(4, "failed", fixtures().join("tiny-millm"), State::Error);
        shelf.put(5, "broken", fixtures().join("no-such-model"), State::Ready);
        shelf
    }

    pub fn put(&self, id: i64, handle: &str, path: impl AsRef<Path>, state: State) {
        let storage_path = path.as_ref().to_str().unwrap().to_owned();
        let model =
            Model { id, handle: handle.into(), storage_path, state: state.into(), ..Model::default() };
        self.0.lock().unwrap().insert(id, model);
        self.1.notify_one();
    }
}

#[tonic::async_trait]
impl CatalogService for Shelf {
    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<Model>, Status> {
        let name = request.into_inner().name;
        let models = self.0.lock().unwrap();
        let mut found = models.values().filter(|model| model.handle == name || model.id.to_string() == name);
        let model = found.next().cloned().ok_or_else(|| ServiceError::model_not_found(name))?;
        Ok(Response::new(model))
    }

    async fn create_model(&self, _: Request<CreateModelRequest>) -> Result<Response<Model>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn update_model(&self, _: Request<UpdateModelRequest>) -> Result<Response<Model>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn delete_model(&self, _: Request<DeleteModelRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type WatchModelsStream = Pin<Box<dyn Stream<Item = Result<WatchModelsResponse, Status>> + Send>>;

    async fn watch_models(
        &self,
        _: Request<WatchModelsRequest>,
    ) -> Result<Response<Self::WatchModelsStream>, Status> {
        let Self(models, changed) = self.clone();
        let all = async_stream::stream! {
            loop {
                let models: Vec<Model> = models.lock().unwrap().values().cloned().collect();
                for model in models {
                    yield Ok(WatchModelsResponse { kind: Kind::Put.into(), model: Some(model) });
                }
                changed.notified().await;
            }
        };
        Ok(Response::new(Box::pin(all)))
    }
}

pub struct Bench {
    pub client: RuntimeServiceClient<Conn>,
    pub shelf: Shelf,
    pub host: Host,
    /// Model 1, where it is not the fixture itself.
    _folder: Option<TempDir>,
}

/// What an answer came to.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    pub text: String,
    pub ids: Vec<u32>,
    pub messages: Vec<GenerateResponse>,
    pub end: GenerateEnd,
}

impl Bench {
    /// Model 1 is `tiny`, 2 `tiny-q8` (a GGUF file), 3 `pending`, 4 `failed`, 5 `broken` (no such files).
    pub async fn start(flags: &[(&str, &str)]) -> Self {
        Self::with(Shelf::stocked(), flags).await
    }

    pub async fn with(shelf: Shelf, flags: &[(&str, &str)]) -> Self {
        Self::reading(shelf, flags, |_| {}).await
    }

    /// With something else changed before it starts.
    pub async fn reading(shelf: Shelf, flags: &[(&str, &str)], change: impl FnOnce(&mut Ground)) -> Self {
        let mut flags: Vec<_> = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        flags.push(("threads", "1".to_owned()));
        let settings = Settings::load(None, |_| None, &flags).unwrap();
        let mut host = Host::new(Shutdown::default());
        let catalog = Conn::local(CatalogServiceServer::new(shelf.clone()));
        let mut runtime = Runtime::build(&settings, catalog, Sandbox::beside_tests()).unwrap();
        change(&mut runtime.ground);
        let conn = runtime.mount(&mut host).await;
        Self { client: RuntimeServiceClient::new(conn), shelf, host, _folder: None }
    }

    pub async fn loaded(flags: &[(&str, &str)]) -> Self {
        let bench = Self::start(flags).await;
        bench.load("tiny").await;
        bench
    }

    /// With `tiny` loaded as a model of a context so long that an answer without end outlasts every test.
    pub async fn enduring(flags: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixtures().join("tiny-millm")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let config = folder.path().join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        let long = text.replace(r#""max_position_embeddings": 2048"#, r#""max_position_embeddings": 65536"#);
        assert_ne!(text, long);
        std::fs::write(&config, long).unwrap();
        let flags = [&[("parallel_requests", "1"), ("context_length", "65536")], flags].concat();
        let bench = Self::start(&flags).await;
        bench.shelf.put(1, "tiny", folder.path(), State::Ready);
        bench.load("tiny").await;
        Self { _folder: Some(folder), ..bench }
    }

    pub async fn begin_load(
        &self,
        request: LoadModelRequest,
    ) -> Result<Streaming<LoadProgress>, ServiceError> {
        Ok(self.client.clone().load_model(request).await?.into_inner())
    }

    /// Loads to the end and gives all that was told on the way.
    pub async fn load(&self, model: &str) -> Vec<LoadProgress> {
        let request = LoadModelRequest { model: model.into(), ..LoadModelRequest::default() };
        let progress = collect(self.begin_load(request).await.unwrap()).await;
        let last = progress.last().unwrap();
        assert_eq!(last.state(), LoadState::Loaded, "{last:?}");
        progress
    }

    pub async fn unload(&self, model: &str, drain_seconds: i64) -> Result<Vec<UnloadProgress>, ServiceError> {
        let drain_timeout = Some(prost_types::Duration { seconds: drain_seconds, nanos: 0 });
        let request = UnloadModelRequest { model: model.into(), drain_timeout };
        Ok(collect(self.client.clone().unload_model(request).await?.into_inner()).await)
    }

    pub async fn begin(&self, request: GenerateRequest) -> Result<Streaming<GenerateResponse>, ServiceError> {
        Ok(self.client.clone().generate(request).await?.into_inner())
    }

    pub async fn generate(&self, request: GenerateRequest) -> Answer {
        finish(self.begin(request).await.unwrap()).await
    }

    /// Watches until the status is as wanted.
    pub async fn wait(&self, wanted: impl Fn(&RuntimeStatus) -> bool) -> RuntimeStatus {
        let mut statuses =
            self.client.clone().watch_status(WatchStatusRequest {}).await.unwrap().into_inner();
        loop {
            let status = statuses.message().await.unwrap().expect("watching does not end");
            if wanted(&status) {
                return status;
            }
        }
    }
}

pub fn gguf(quantization: &str) -> PathBuf {
    let folder = fixtures().join("tiny-millm-gguf");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.to_str().unwrap().ends_with(&format!("{quantization}.gguf")));
    files.next().unwrap_or_else(|| panic!("{quantization} in {}", folder.display()))
}

pub async fn finish(stream: Streaming<GenerateResponse>) -> Answer {
    let mut answer = Answer { messages: collect(stream).await, ..Answer::default() };
    for message in &answer.messages {
        answer.text.push_str(&message.text);
        answer.ids.extend(&message.token_ids);
    }
    assert!(answer.messages[0].start.is_some(), "the first message has the start: {:?}", answer.messages);
    answer.end = answer.messages.last().unwrap().end.clone().expect("the last message has the end");
    answer
}

pub async fn collect<T>(stream: Streaming<T>) -> Vec<T> {
    stream.map(Result::unwrap).collect().await
}

pub fn check<T: std::fmt::Debug>(result: Result<T, ServiceError>, reason: Reason, says: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.reason, reason, "{error}");
    assert!(error.message.contains(says), "{error}");
}
