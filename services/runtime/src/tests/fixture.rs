//! A runtime with a fake catalog, called through its gRPC service.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use futures::{Stream, StreamExt as _};
use millm_kit::{Channel, Host, Reason, ServiceError, Settings, Shutdown};
use millm_proto::{
    catalog::v1::{
        CreateModelRequest, DeleteModelRequest, GetModelRequest, ListModelsRequest, ListModelsResponse,
        Model, UpdateModelRequest, WatchModelsRequest, WatchModelsResponse,
        catalog_service_server::{CatalogService, CatalogServiceServer},
        datasets_service_server::DatasetsServiceServer,
        model::State,
        watch_models_response::Kind,
    },
    inspection::v1::inspection_service_client::InspectionServiceClient,
    runtime::v1::{
        GenerateEnd, GenerateRequest, GenerateResponse, LoadModelRequest, LoadProgress, LoadState,
        RuntimeStatus, UnloadModelRequest, UnloadProgress, WatchStatusRequest,
        runtime_service_client::RuntimeServiceClient,
    },
};
use millm_sandbox::Sandbox;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::Notify;
use tonic::{Request, Response, Status, Streaming};

use super::datasets::FakeDatasets;
use crate::{Runtime, options::LoaderOptions};

/// Returns the folder of the tests' models.
pub fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures"))
}

/// A catalog that finds and watches models, kept by id.
#[derive(Clone, Default)]
pub struct FakeCatalog(Arc<Mutex<BTreeMap<i64, Model>>>, Arc<Notify>);

impl FakeCatalog {
    /// Returns a catalog with the models of [`Fixture::start`].
    pub fn with_models() -> Self {
        let catalog = Self::default();
        catalog.put(1, "tiny", fixtures().join("tiny-millm"), State::Ready);
        catalog.put(2, "tiny-q8", gguf("Q8_0"), State::Ready);
        catalog.put(3, "pending", fixtures().join("tiny-millm"), State::Pending);
        catalog.put(4, "failed", fixtures().join("tiny-millm"), State::Error);
        catalog.put(5, "broken", fixtures().join("no-such-model"), State::Ready);
        catalog
    }

    /// Adds or replaces a model.
    pub fn put(&self, id: i64, handle: &str, path: impl AsRef<Path>, state: State) {
        let storage_path = path.as_ref().to_str().unwrap().to_owned();
        let model =
            Model { id, handle: handle.into(), storage_path, state: state.into(), ..Model::default() };
        self.0.lock().insert(id, model);
        self.1.notify_one();
    }
}

#[tonic::async_trait]
impl CatalogService for FakeCatalog {
    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<Model>, Status> {
        let name = request.into_inner().name;
        let models = self.0.lock();
        let mut found = models.values().filter(|model| model.handle == name || model.id.to_string() == name);
        let model = found.next().cloned().ok_or_else(|| ServiceError::model_not_found(name))?;
        Ok(Response::new(model))
    }

    async fn create_model(&self, _: Request<CreateModelRequest>) -> Result<Response<Model>, Status> {
        Err(Status::unimplemented("not in the fake catalog"))
    }

    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Err(Status::unimplemented("not in the fake catalog"))
    }

    async fn update_model(&self, _: Request<UpdateModelRequest>) -> Result<Response<Model>, Status> {
        Err(Status::unimplemented("not in the fake catalog"))
    }

    async fn delete_model(&self, _: Request<DeleteModelRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("not in the fake catalog"))
    }

    type WatchModelsStream = Pin<Box<dyn Stream<Item = Result<WatchModelsResponse, Status>> + Send>>;

    async fn watch_models(
        &self,
        _: Request<WatchModelsRequest>,
    ) -> Result<Response<Self::WatchModelsStream>, Status> {
        let Self(models, changed) = self.clone();
        let all = async_stream::stream! {
            loop {
                let models: Vec<Model> = models.lock().values().cloned().collect();
                for model in models {
                    yield Ok(WatchModelsResponse { kind: Kind::Put.into(), model: Some(model) });
                }
                changed.notified().await;
            }
        };
        Ok(Response::new(Box::pin(all)))
    }
}

/// A mounted runtime.
pub struct Fixture {
    pub client: RuntimeServiceClient<Channel>,
    pub inspection: InspectionServiceClient<Channel>,
    pub catalog: FakeCatalog,
    pub datasets: FakeDatasets,
    /// The folder of extractions.
    pub activations: Arc<TempDir>,
    pub host: Host,
    /// The folder of model 1 if it is a changed copy.
    _folder: Option<TempDir>,
}

/// A whole response.
#[derive(Debug, Default, Clone)]
pub struct Completion {
    pub text: String,
    pub ids: Vec<u32>,
    pub messages: Vec<GenerateResponse>,
    pub end: GenerateEnd,
}

impl Fixture {
    /// Mounts a runtime with the models 1 `tiny`, 2 `tiny-q8` (a GGUF file), 3 `pending`, 4 `failed` and 5 `broken` (missing
    /// files).
    pub async fn start(flags: &[(&str, &str)]) -> Self {
        Self::with(FakeCatalog::with_models(), flags).await
    }

    /// Mounts a runtime with these models.
    pub async fn with(catalog: FakeCatalog, flags: &[(&str, &str)]) -> Self {
        Self::with_options(catalog, flags, |_| {}).await
    }

    /// Mounts a runtime with changed options.
    pub async fn with_options(
        catalog: FakeCatalog,
        flags: &[(&str, &str)],
        change: impl FnOnce(&mut LoaderOptions),
    ) -> Self {
        let activations = Arc::new(tempfile::tempdir().unwrap());
        Self::mount(catalog, FakeDatasets::default(), activations, flags, change).await
    }

    async fn mount(
        catalog: FakeCatalog,
        datasets: FakeDatasets,
        activations: Arc<TempDir>,
        flags: &[(&str, &str)],
        change: impl FnOnce(&mut LoaderOptions),
    ) -> Self {
        let mut flags: Vec<_> = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        flags.push(("threads", "1".to_owned()));
        flags.push(("activations_dir", activations.path().to_str().unwrap().to_owned()));
        let settings = Settings::load(None, |_| None, &flags).unwrap();
        let mut host = Host::new(Shutdown::default());
        let catalog_channel = Channel::local(CatalogServiceServer::new(catalog.clone()))
            .join(Channel::local(DatasetsServiceServer::new(datasets.clone())));
        let mut runtime = Runtime::build(&settings, catalog_channel, Sandbox::beside_tests()).unwrap();
        change(&mut runtime.options);
        let channel = runtime.mount(&mut host).await;
        let inspection = InspectionServiceClient::new(channel.clone());
        let client = RuntimeServiceClient::new(channel);
        Self { client, inspection, catalog, datasets, activations, host, _folder: None }
    }

    /// Stops the runtime and starts another one over the same catalog and the same extractions.
    pub async fn restart(self) -> Self {
        let Self { catalog, datasets, activations, host, .. } = self;
        host.shutdown.stopping.cancel();
        host.tasks.close();
        host.tasks.wait().await;
        drop(host);
        Self::mount(catalog, datasets, activations, &[], |_| {}).await
    }

    /// Mounts a runtime and loads `tiny`.
    pub async fn loaded(flags: &[(&str, &str)]) -> Self {
        let fixture = Self::start(flags).await;
        fixture.load("tiny").await;
        fixture
    }

    /// Mounts a runtime and loads `tiny` with such a long context that an endless response outlasts every test.
    pub async fn long_running(flags: &[(&str, &str)]) -> Self {
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
        let fixture = Self::start(&flags).await;
        fixture.catalog.put(1, "tiny", folder.path(), State::Ready);
        fixture.load("tiny").await;
        Self { _folder: Some(folder), ..fixture }
    }

    /// Starts a load.
    pub async fn begin_load(
        &self,
        request: LoadModelRequest,
    ) -> Result<Streaming<LoadProgress>, ServiceError> {
        Ok(self.client.clone().load_model(request).await?.into_inner())
    }

    /// Loads a model and returns all progress messages.
    pub async fn load(&self, model: &str) -> Vec<LoadProgress> {
        let request = LoadModelRequest { model: model.into(), ..LoadModelRequest::default() };
        let progress = collect(self.begin_load(request).await.unwrap()).await;
        let last = progress.last().unwrap();
        assert_eq!(last.state(), LoadState::Loaded, "{last:?}");
        progress
    }

    /// Unloads a model and returns all progress messages.
    pub async fn unload(&self, model: &str, drain_seconds: i64) -> Result<Vec<UnloadProgress>, ServiceError> {
        let drain_timeout = Some(prost_types::Duration { seconds: drain_seconds, nanos: 0 });
        let request = UnloadModelRequest { model: model.into(), drain_timeout };
        Ok(collect(self.client.clone().unload_model(request).await?.into_inner()).await)
    }

    /// Starts a generation.
    pub async fn begin(&self, request: GenerateRequest) -> Result<Streaming<GenerateResponse>, ServiceError> {
        Ok(self.client.clone().generate(request).await?.into_inner())
    }

    /// Generates a whole response.
    pub async fn generate(&self, request: GenerateRequest) -> Completion {
        finish(self.begin(request).await.unwrap()).await
    }

    /// Watches the status until the condition holds.
    pub async fn wait(&self, condition: impl Fn(&RuntimeStatus) -> bool) -> RuntimeStatus {
        let mut statuses =
            self.client.clone().watch_status(WatchStatusRequest {}).await.unwrap().into_inner();
        loop {
            let status = statuses.message().await.unwrap().expect("the stream does not end");
            if condition(&status) {
                return status;
            }
        }
    }
}

/// Returns the path of the tiny model's GGUF file.
pub fn gguf(quantization: &str) -> PathBuf {
    let folder = fixtures().join("tiny-millm-gguf");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.to_str().unwrap().ends_with(&format!("{quantization}.gguf")));
    files.next().unwrap_or_else(|| panic!("{quantization} in {}", folder.display()))
}

/// Reads a response to its end.
pub async fn finish(stream: Streaming<GenerateResponse>) -> Completion {
    let mut answer = Completion { messages: collect(stream).await, ..Completion::default() };
    for message in &answer.messages {
        answer.text.push_str(&message.text);
        answer.ids.extend(&message.token_ids);
    }
    assert!(answer.messages[0].start.is_some(), "the first message has the start: {:?}", answer.messages);
    answer.end = answer.messages.last().unwrap().end.clone().expect("the last message has the end");
    answer
}

/// Reads all messages of a stream.
pub async fn collect<T>(stream: Streaming<T>) -> Vec<T> {
    stream.map(Result::unwrap).collect().await
}

/// Checks the reason of an error, and a part of its message.
pub fn check<T: std::fmt::Debug>(result: Result<T, ServiceError>, reason: Reason, says: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.reason, reason, "{error}");
    assert!(error.message.contains(says), "{error}");
}
