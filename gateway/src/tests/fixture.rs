//! A gateway in front of fake services, and ways to call it.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use futures::{Stream, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use millm_kit::{Host, ServiceError, Settings, Shutdown};
use millm_proto::{
    catalog::v1::{
        CreateModelRequest, DeleteModelRequest, GetModelRequest, ListModelsRequest, ListModelsResponse,
        Model, UpdateModelRequest, WatchModelsRequest, WatchModelsResponse,
        catalog_service_server::{CatalogService, CatalogServiceServer},
        datasets_service_server::DatasetsServiceServer,
        templates_service_server::TemplatesServiceServer,
        watch_models_response,
    },
    downloader::v1::{
        AddDatasetProgress, AddDatasetRequest, CancelDownloadRequest, CheckStorageRequest, Download,
        GetHubStatusRequest, HubStatus, ListDownloadsRequest, ListDownloadsResponse, ModelPreview,
        PreviewModelRequest, ReadDatasetRowsRequest, ReadDatasetRowsResponse, RemoveDatasetRequest,
        RemoveModelRequest, SearchReposRequest, SearchReposResponse, StartDownloadRequest, StorageReport,
        WatchDownloadRequest, WatchDownloadsRequest,
        downloader_service_server::{DownloaderService, DownloaderServiceServer},
    },
    inspection::v1::inspection_service_server::InspectionServiceServer,
    runtime::v1::{
        DetokenizeRequest, DetokenizeResponse, EstimateMemoryRequest, GenerateRequest, GenerateResponse,
        GetStatusRequest, LoadModelRequest, LoadProgress, MemoryEstimate, RuntimeStatus, TokenizeRequest,
        TokenizeResponse, UnloadModelRequest, UnloadProgress, WatchStatusRequest,
        runtime_service_server::{RuntimeService, RuntimeServiceServer},
    },
};
use serde_json::Value;
use tokio::sync::broadcast;
use tonic::{Response, Status};
use tower::ServiceExt as _;

use super::fake_inspection::InspectionStage;
use crate::{Gateway, Services};

pub type Answer<T> = Result<Response<T>, Status>;
pub type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The answers of the fake services, and the requests that they got.
pub struct Stage {
    pub models: Mutex<Vec<Model>>,
    pub downloads: Mutex<Vec<Download>>,
    pub status: Mutex<RuntimeStatus>,
    pub preview: Mutex<ModelPreview>,
    pub found: Mutex<SearchReposResponse>,
    pub hub: Mutex<HubStatus>,
    pub estimate: Mutex<MemoryEstimate>,
    pub load: Mutex<Vec<LoadProgress>>,
    pub unload: Mutex<Vec<UnloadProgress>>,
    /// The responses of each generation, in turn. The last one repeats.
    pub generations: Mutex<Vec<Vec<Result<GenerateResponse, Status>>>>,
    pub refusal: Mutex<Option<ServiceError>>,
    pub started: Mutex<Vec<StartDownloadRequest>>,
    pub searched: Mutex<Vec<SearchReposRequest>>,
    pub asked: Mutex<Vec<GenerateRequest>>,
    pub named: Mutex<Vec<String>>,
    /// The request ids of the calls that came with one.
    pub request_ids: Mutex<Vec<String>>,
    /// Generations whose stream is open.
    pub running: Arc<AtomicUsize>,
    pub download_news: broadcast::Sender<Download>,
    pub status_news: broadcast::Sender<RuntimeStatus>,
    pub inspection: InspectionStage,
}

#[derive(Clone)]
pub struct FakeServices(pub Arc<Stage>);

pub struct Fixture {
    pub stage: Arc<Stage>,
    pub routes: Router,
    pub host: Host,
}

impl Fixture {
    pub async fn new() -> Self {
        let stage = Arc::new(Stage {
            models: Mutex::default(),
            downloads: Mutex::default(),
            status: Mutex::default(),
            preview: Mutex::default(),
            found: Mutex::default(),
            hub: Mutex::default(),
            estimate: Mutex::default(),
            load: Mutex::default(),
            unload: Mutex::default(),
            generations: Mutex::default(),
            refusal: Mutex::default(),
            started: Mutex::default(),
            searched: Mutex::default(),
            asked: Mutex::default(),
            named: Mutex::default(),
            request_ids: Mutex::default(),
            running: Arc::default(),
            download_news: broadcast::Sender::new(64),
            status_news: broadcast::Sender::new(64),
            inspection: InspectionStage::default(),
        });
        let mut host = Host::new(Shutdown::default());
        let fake = FakeServices(stage.clone());
        let catalog = host.grpc(CatalogServiceServer::new(fake.clone())).await;
        let datasets = host.grpc(DatasetsServiceServer::new(fake.clone())).await;
        let templates = host.grpc(TemplatesServiceServer::new(fake.clone())).await;
        let runtime = host.grpc(RuntimeServiceServer::new(fake.clone())).await;
        let inspection = host.grpc(InspectionServiceServer::new(fake.clone())).await;
        let services = Services {
            catalog: catalog.join(datasets).join(templates),
            downloader: host.grpc(DownloaderServiceServer::new(fake)).await,
            runtime: runtime.join(inspection),
        };
        let settings = Settings::load(None, |_| None, &[]).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 8000));
        let routes = Gateway::build(&settings, address, services, &host).routes(host.standard_routes());
        Self { stage, routes, host }
    }

    pub async fn send(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Vec<u8>) {
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, bytes) = self.send(request("GET", path).body(Body::empty()).unwrap()).await;
        (status.as_u16(), serde_json::from_slice(&bytes).unwrap())
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = request(method, path).header("content-type", "application/json");
        let (status, _, bytes) = self.send(request.body(Body::from(body.to_string())).unwrap()).await;
        (status.as_u16(), serde_json::from_slice(&bytes).unwrap())
    }

    /// The `data:` lines of a stream of events.
    pub async fn stream(&self, path: &str, body: Value) -> Vec<String> {
        let request = request("POST", path).header("content-type", "application/json");
        let (status, headers, bytes) = self.send(request.body(Body::from(body.to_string())).unwrap()).await;
        assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"text/event-stream".parse().unwrap()));
        let text = String::from_utf8(bytes).unwrap();
        text.split_terminator("\n\n").map(|e| e.strip_prefix("data: ").unwrap().to_owned()).collect()
    }
}

/// Returns the body of an error without its request's id, which must be 32 hex digits.
pub fn without_id(mut body: Value) -> Value {
    let error = body["error"].as_object_mut().expect("an error");
    let id = match error.get_mut("details").and_then(Value::as_object_mut) {
        Some(details) => details.shift_remove("request_id"),
        None => error.shift_remove("request_id"),
    };
    let id = id.expect("every error has its request's id");
    assert!(id.as_str().is_some_and(|id| id.len() == 32), "{id}");
    body
}

pub fn request(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "localhost:8000")
}

impl Stage {
    fn note_request_id(&self, metadata: &tonic::metadata::MetadataMap) {
        let id = metadata.get("x-request-id").map(|id| id.to_str().unwrap().to_owned());
        self.request_ids.lock().unwrap().extend(id);
    }

    pub fn refused(&self) -> Result<(), Status> {
        self.refusal.lock().unwrap().clone().map_or(Ok(()), |error| Err(error.into()))
    }
}

#[tonic::async_trait]
impl CatalogService for FakeServices {
    async fn create_model(&self, _: tonic::Request<CreateModelRequest>) -> Answer<Model> {
        Err(Status::unimplemented("fake"))
    }

    async fn get_model(&self, request: tonic::Request<GetModelRequest>) -> Answer<Model> {
        let name = request.into_inner().name;
        let models = self.0.models.lock().unwrap();
        let id = name.trim_start_matches("models/").trim_start_matches("downloads/");
        let found = models.iter().find(|model| model.handle == name || model.id.to_string() == id);
        found.cloned().map(Response::new).ok_or_else(|| ServiceError::model_not_found(name).into())
    }

    async fn list_models(&self, request: tonic::Request<ListModelsRequest>) -> Answer<ListModelsResponse> {
        self.0.note_request_id(request.metadata());
        // One model a page.
        let start: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let models = self.0.models.lock().unwrap();
        let page: Vec<Model> = models.iter().skip(start).take(1).cloned().collect();
        let next = if start + 1 < models.len() { (start + 1).to_string() } else { String::new() };
        let total_size = models.len() as i32;
        let catalog_id = String::new();
        Ok(Response::new(ListModelsResponse { models: page, next_page_token: next, total_size, catalog_id }))
    }

    async fn update_model(&self, request: tonic::Request<UpdateModelRequest>) -> Answer<Model> {
        self.0.refused()?;
        let UpdateModelRequest { model, update_mask } = request.into_inner();
        let model = model.unwrap_or_default();
        assert_eq!(update_mask.unwrap_or_default().paths, ["handle"], "nothing else is written");
        let mut models = self.0.models.lock().unwrap();
        let found =
            models.iter_mut().find(|row| row.handle == model.name || row.id.to_string() == model.name);
        let row = found.ok_or_else(|| Status::from(ServiceError::model_not_found(&model.name)))?;
        row.handle = model.handle;
        Ok(Response::new(row.clone()))
    }

    async fn delete_model(&self, _: tonic::Request<DeleteModelRequest>) -> Answer<()> {
        Err(Status::unimplemented("fake"))
    }

    type WatchModelsStream = Streaming<WatchModelsResponse>;

    async fn watch_models(&self, _: tonic::Request<WatchModelsRequest>) -> Answer<Self::WatchModelsStream> {
        let put = |model: &Model| WatchModelsResponse {
            kind: watch_models_response::Kind::Put.into(),
            model: Some(model.clone()),
        };
        let complete = watch_models_response::Kind::SnapshotComplete.into();
        let present = self.0.models.lock().unwrap().iter().map(put).collect::<Vec<_>>();
        let present = present.into_iter().chain([WatchModelsResponse { kind: complete, model: None }]);
        Ok(Response::new(Box::pin(stream::iter(present.map(Ok)).chain(stream::pending()))))
    }
}

pub fn news<T: Clone + Send + 'static>(present: Vec<T>, sender: &broadcast::Sender<T>) -> Streaming<T> {
    let mut receiver = sender.subscribe();
    Box::pin(async_stream::stream! {
        for item in present {
            yield Ok(item);
        }
        while let Ok(item) = receiver.recv().await {
            yield Ok(item);
        }
    })
}

#[tonic::async_trait]
impl DownloaderService for FakeServices {
    async fn preview_model(&self, request: tonic::Request<PreviewModelRequest>) -> Answer<ModelPreview> {
        self.0.refused()?;
        self.0.named.lock().unwrap().push(request.into_inner().repo_id);
        Ok(Response::new(self.0.preview.lock().unwrap().clone()))
    }

    async fn search_repos(&self, request: tonic::Request<SearchReposRequest>) -> Answer<SearchReposResponse> {
        self.0.refused()?;
        self.0.searched.lock().unwrap().push(request.into_inner());
        Ok(Response::new(self.0.found.lock().unwrap().clone()))
    }

    async fn get_hub_status(&self, _: tonic::Request<GetHubStatusRequest>) -> Answer<HubStatus> {
        self.0.refused()?;
        Ok(Response::new(self.0.hub.lock().unwrap().clone()))
    }

    async fn start_download(&self, request: tonic::Request<StartDownloadRequest>) -> Answer<Download> {
        self.0.refused()?;
        self.0.started.lock().unwrap().push(request.into_inner());
        Ok(Response::new(self.0.downloads.lock().unwrap()[0].clone()))
    }

    async fn cancel_download(&self, request: tonic::Request<CancelDownloadRequest>) -> Answer<()> {
        self.0.refused()?;
        self.0.named.lock().unwrap().push(request.into_inner().name);
        Ok(Response::new(()))
    }

    async fn list_downloads(&self, _: tonic::Request<ListDownloadsRequest>) -> Answer<ListDownloadsResponse> {
        let downloads = self.0.downloads.lock().unwrap().clone();
        Ok(Response::new(ListDownloadsResponse { downloads }))
    }

    type WatchDownloadStream = Streaming<Download>;

    async fn watch_download(
        &self,
        _: tonic::Request<WatchDownloadRequest>,
    ) -> Answer<Self::WatchDownloadStream> {
        Ok(Response::new(Box::pin(stream::empty())))
    }

    type WatchDownloadsStream = Streaming<Download>;

    async fn watch_downloads(
        &self,
        _: tonic::Request<WatchDownloadsRequest>,
    ) -> Answer<Self::WatchDownloadsStream> {
        let present = self.0.downloads.lock().unwrap().clone();
        Ok(Response::new(news(present, &self.0.download_news)))
    }

    async fn remove_model(&self, request: tonic::Request<RemoveModelRequest>) -> Answer<()> {
        self.0.refused()?;
        self.0.named.lock().unwrap().push(request.into_inner().name);
        Ok(Response::new(()))
    }

    async fn check_storage(&self, _: tonic::Request<CheckStorageRequest>) -> Answer<StorageReport> {
        Err(Status::unimplemented("fake"))
    }

    type AddDatasetStream = Streaming<AddDatasetProgress>;

    async fn add_dataset(
        &self,
        request: tonic::Request<AddDatasetRequest>,
    ) -> Answer<Self::AddDatasetStream> {
        self.0.refused()?;
        Ok(Response::new(self.0.inspection.add(request.into_inner())))
    }

    async fn remove_dataset(&self, request: tonic::Request<RemoveDatasetRequest>) -> Answer<()> {
        self.0.refused()?;
        self.0.named.lock().unwrap().push(request.into_inner().name);
        Ok(Response::new(()))
    }

    async fn read_dataset_rows(
        &self,
        request: tonic::Request<ReadDatasetRowsRequest>,
    ) -> Answer<ReadDatasetRowsResponse> {
        self.0.refused()?;
        Ok(Response::new(self.0.inspection.rows(&request.into_inner())))
    }
}

/// Counts a generation as long as its stream lives.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl RuntimeService for FakeServices {
    async fn get_status(&self, _: tonic::Request<GetStatusRequest>) -> Answer<RuntimeStatus> {
        Ok(Response::new(self.0.status.lock().unwrap().clone()))
    }

    type WatchStatusStream = Streaming<RuntimeStatus>;

    async fn watch_status(&self, _: tonic::Request<WatchStatusRequest>) -> Answer<Self::WatchStatusStream> {
        let present = self.0.status.lock().unwrap().clone();
        Ok(Response::new(news(vec![present], &self.0.status_news)))
    }

    async fn estimate_memory(&self, _: tonic::Request<EstimateMemoryRequest>) -> Answer<MemoryEstimate> {
        self.0.refused()?;
        Ok(Response::new(self.0.estimate.lock().unwrap().clone()))
    }

    type LoadModelStream = Streaming<LoadProgress>;

    async fn load_model(&self, request: tonic::Request<LoadModelRequest>) -> Answer<Self::LoadModelStream> {
        self.0.refused()?;
        self.0.named.lock().unwrap().push(request.into_inner().model);
        let said = self.0.load.lock().unwrap().clone();
        Ok(Response::new(Box::pin(stream::iter(said.into_iter().map(Ok)))))
    }

    type UnloadModelStream = Streaming<UnloadProgress>;

    async fn unload_model(
        &self,
        request: tonic::Request<UnloadModelRequest>,
    ) -> Answer<Self::UnloadModelStream> {
        self.0.refused()?;
        self.0.named.lock().unwrap().push(request.into_inner().model);
        let said = self.0.unload.lock().unwrap().clone();
        Ok(Response::new(Box::pin(stream::iter(said.into_iter().map(Ok)))))
    }

    type GenerateStream = Streaming<GenerateResponse>;

    async fn generate(&self, request: tonic::Request<GenerateRequest>) -> Answer<Self::GenerateStream> {
        self.0.refused()?;
        self.0.note_request_id(request.metadata());
        self.0.asked.lock().unwrap().push(request.into_inner());
        let said = {
            let mut generations = self.0.generations.lock().unwrap();
            if generations.len() > 1 { generations.remove(0) } else { generations[0].clone() }
        };
        self.0.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(self.0.running.clone());
        let endless = said.last().is_some_and(|last| last.as_ref().is_ok_and(|last| last.end.is_none()));
        let rest = if endless { stream::pending().boxed() } else { stream::empty().boxed() };
        let said = stream::iter(said).chain(rest).map(move |response| {
            let _ = &running;
            response
        });
        Ok(Response::new(Box::pin(said)))
    }

    async fn tokenize(&self, _: tonic::Request<TokenizeRequest>) -> Answer<TokenizeResponse> {
        Err(Status::unimplemented("fake"))
    }

    async fn detokenize(&self, request: tonic::Request<DetokenizeRequest>) -> Answer<DetokenizeResponse> {
        let text =
            request.into_inner().token_ids.iter().fold(String::new(), |text, id| text + &format!("<{id}>"));
        Ok(Response::new(DetokenizeResponse { text }))
    }
}
