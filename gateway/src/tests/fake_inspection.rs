//! Fake services for looking inside: datasets, templates and extractions.

use std::sync::Mutex;

use futures::stream;
use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::{
        CreateDatasetRequest, CreateTemplateRequest, Dataset, DeleteDatasetRequest, DeleteTemplateRequest,
        ExportTemplatesRequest, ExportTemplatesResponse, GetDatasetRequest, GetTemplateRequest,
        ImportTemplatesRequest, ImportTemplatesResponse, ListDatasetsRequest, ListDatasetsResponse,
        ListTemplatesRequest, ListTemplatesResponse, Template, UpdateDatasetRequest, UpdateTemplateRequest,
        datasets_service_server::DatasetsService, templates_service_server::TemplatesService,
    },
    downloader::v1::{
        AddDatasetProgress, AddDatasetRequest, ReadDatasetRowsRequest, ReadDatasetRowsResponse,
    },
    inspection::v1::{
        ActivationChunk, CancelExtractionRequest, DeleteExtractionRequest, DescribeModelRequest,
        EstimateExtractionRequest, Extraction, ExtractionEstimate, FileChunk, GetExtractionRequest,
        ListExtractionsRequest, ListExtractionsResponse, ModelDescription, ReadActivationsRequest,
        ReadExtractionFileRequest, ReplayExtractionRequest, ResumeExtractionRequest, StartExtractionRequest,
        WatchExtractionRequest, WatchExtractionsRequest, extraction::State,
        inspection_service_server::InspectionService,
    },
};
use tokio::sync::broadcast;
use tonic::{Response, Status};

use super::fixture::{Answer, FakeServices, Streaming, news};

/// The answers of the fake services, and the requests that they got.
pub struct InspectionStage {
    pub description: Mutex<ModelDescription>,
    pub datasets: Mutex<Vec<Dataset>>,
    /// The messages about a dataset that is added; the stream stays open when `add_is_endless`.
    pub adding: Mutex<Vec<AddDatasetProgress>>,
    pub add_is_endless: Mutex<bool>,
    pub added: Mutex<Vec<AddDatasetRequest>>,
    pub row_requests: Mutex<Vec<ReadDatasetRowsRequest>>,
    pub templates: Mutex<Vec<Template>>,
    pub updated: Mutex<Vec<UpdateTemplateRequest>>,
    pub imported: Mutex<Vec<String>>,
    pub exported: Mutex<Vec<Vec<String>>>,
    pub estimate: Mutex<ExtractionEstimate>,
    pub configs: Mutex<Vec<millm_proto::inspection::v1::ExtractionConfig>>,
    pub extractions: Mutex<Vec<Extraction>>,
    pub extraction_news: broadcast::Sender<Extraction>,
    /// The content of every file; chunks have three bytes.
    pub content: Mutex<Vec<u8>>,
    pub reads: Mutex<Vec<ReadExtractionFileRequest>>,
}

impl Default for InspectionStage {
    fn default() -> Self {
        Self {
            description: Mutex::default(),
            datasets: Mutex::default(),
            adding: Mutex::default(),
            add_is_endless: Mutex::default(),
            added: Mutex::default(),
            row_requests: Mutex::default(),
            templates: Mutex::default(),
            updated: Mutex::default(),
            imported: Mutex::default(),
            exported: Mutex::default(),
            estimate: Mutex::default(),
            configs: Mutex::default(),
            extractions: Mutex::default(),
            extraction_news: broadcast::Sender::new(64),
            content: Mutex::default(),
            reads: Mutex::default(),
        }
    }
}

impl InspectionStage {
    pub fn add(&self, request: AddDatasetRequest) -> Streaming<AddDatasetProgress> {
        self.added.lock().unwrap().push(request);
        let said = stream::iter(self.adding.lock().unwrap().clone().into_iter().map(Ok));
        if *self.add_is_endless.lock().unwrap() {
            Box::pin(futures::StreamExt::chain(said, stream::pending()))
        } else {
            Box::pin(said)
        }
    }

    pub fn rows(&self, request: &ReadDatasetRowsRequest) -> ReadDatasetRowsResponse {
        self.row_requests.lock().unwrap().push(request.clone());
        let rows = request.offset..request.offset + u64::from(request.limit.min(2));
        ReadDatasetRowsResponse { rows_json: rows.map(|row| format!("{{\"text\":\"row {row}\"}}")).collect() }
    }

    fn template(&self, name: &str) -> Result<Template, Status> {
        let templates = self.templates.lock().unwrap();
        let found = templates.iter().find(|row| row.handle == name || row.id.to_string() == name);
        found.cloned().ok_or_else(|| ServiceError::template_not_found(name).into())
    }

    fn extraction(&self, id: &str) -> Result<Extraction, Status> {
        let extractions = self.extractions.lock().unwrap();
        let found = extractions.iter().find(|extraction| extraction.id == id);
        found.cloned().ok_or_else(|| ServiceError::extraction_not_found(id).into())
    }

    fn with_state(&self, id: &str, state: State) -> Answer<Extraction> {
        let extraction = self.extraction(id)?;
        Ok(Response::new(Extraction { state: state.into(), ..extraction }))
    }
}

/// Returns the item of this page, one a page, and the next page's token.
fn page<T: Clone>(items: &[T], token: &str) -> (Vec<T>, String) {
    let start: usize = token.parse().unwrap_or(0);
    let next = if start + 1 < items.len() { (start + 1).to_string() } else { String::new() };
    (items.iter().skip(start).take(1).cloned().collect(), next)
}

#[tonic::async_trait]
impl DatasetsService for FakeServices {
    async fn create_dataset(&self, _: tonic::Request<CreateDatasetRequest>) -> Answer<Dataset> {
        Err(Status::unimplemented("fake"))
    }

    async fn get_dataset(&self, request: tonic::Request<GetDatasetRequest>) -> Answer<Dataset> {
        let name = request.into_inner().name;
        let datasets = self.0.inspection.datasets.lock().unwrap();
        let found = datasets.iter().find(|row| row.handle == name || row.id.to_string() == name);
        found.cloned().map(Response::new).ok_or_else(|| ServiceError::dataset_not_found(name).into())
    }

    async fn list_datasets(
        &self,
        request: tonic::Request<ListDatasetsRequest>,
    ) -> Answer<ListDatasetsResponse> {
        let datasets = self.0.inspection.datasets.lock().unwrap();
        let (datasets, next_page_token) = page(&datasets, &request.into_inner().page_token);
        Ok(Response::new(ListDatasetsResponse { datasets, next_page_token }))
    }

    async fn update_dataset(&self, _: tonic::Request<UpdateDatasetRequest>) -> Answer<Dataset> {
        Err(Status::unimplemented("fake"))
    }

    async fn delete_dataset(&self, _: tonic::Request<DeleteDatasetRequest>) -> Answer<()> {
        Err(Status::unimplemented("fake"))
    }
}

#[tonic::async_trait]
impl TemplatesService for FakeServices {
    async fn create_template(&self, request: tonic::Request<CreateTemplateRequest>) -> Answer<Template> {
        self.0.refused()?;
        let mut templates = self.0.inspection.templates.lock().unwrap();
        let id = templates.len() as i64 + 1;
        let template = Template { id, ..request.into_inner().template.unwrap_or_default() };
        templates.push(template.clone());
        Ok(Response::new(template))
    }

    async fn get_template(&self, request: tonic::Request<GetTemplateRequest>) -> Answer<Template> {
        Ok(Response::new(self.0.inspection.template(&request.into_inner().name)?))
    }

    async fn list_templates(
        &self,
        request: tonic::Request<ListTemplatesRequest>,
    ) -> Answer<ListTemplatesResponse> {
        let templates = self.0.inspection.templates.lock().unwrap();
        let (templates, next_page_token) = page(&templates, &request.into_inner().page_token);
        Ok(Response::new(ListTemplatesResponse { templates, next_page_token }))
    }

    async fn update_template(&self, request: tonic::Request<UpdateTemplateRequest>) -> Answer<Template> {
        self.0.refused()?;
        let request = request.into_inner();
        self.0.inspection.updated.lock().unwrap().push(request.clone());
        let template = request.template.unwrap_or_default();
        Ok(Response::new(Template {
            favorite: template.favorite,
            ..self.0.inspection.template(&template.name)?
        }))
    }

    async fn delete_template(&self, request: tonic::Request<DeleteTemplateRequest>) -> Answer<()> {
        self.0.refused()?;
        self.0.named.lock().unwrap().push(request.into_inner().name);
        Ok(Response::new(()))
    }

    async fn import_templates(
        &self,
        request: tonic::Request<ImportTemplatesRequest>,
    ) -> Answer<ImportTemplatesResponse> {
        self.0.refused()?;
        self.0.inspection.imported.lock().unwrap().push(request.into_inner().json);
        let skipped = millm_proto::catalog::v1::import_templates_response::Skipped {
            handle: "old".into(),
            reason: "the name is taken".into(),
        };
        let created = vec![Template { id: 9, handle: "new".into(), ..Template::default() }];
        Ok(Response::new(ImportTemplatesResponse { created, skipped: vec![skipped] }))
    }

    async fn export_templates(
        &self,
        request: tonic::Request<ExportTemplatesRequest>,
    ) -> Answer<ExportTemplatesResponse> {
        self.0.inspection.exported.lock().unwrap().push(request.into_inner().names);
        Ok(Response::new(ExportTemplatesResponse { json: "{\"version\":1,\"templates\":[]}".into() }))
    }
}

#[tonic::async_trait]
impl InspectionService for FakeServices {
    async fn describe_model(
        &self,
        request: tonic::Request<DescribeModelRequest>,
    ) -> Answer<ModelDescription> {
        self.0.refused()?;
        self.0.named.lock().unwrap().push(request.into_inner().model);
        Ok(Response::new(self.0.inspection.description.lock().unwrap().clone()))
    }

    async fn estimate_extraction(
        &self,
        request: tonic::Request<EstimateExtractionRequest>,
    ) -> Answer<ExtractionEstimate> {
        self.0.refused()?;
        self.0.inspection.configs.lock().unwrap().extend(request.into_inner().config);
        Ok(Response::new(self.0.inspection.estimate.lock().unwrap().clone()))
    }

    async fn start_extraction(&self, request: tonic::Request<StartExtractionRequest>) -> Answer<Extraction> {
        self.0.refused()?;
        let config = request.into_inner().config;
        self.0.inspection.configs.lock().unwrap().extend(config.clone());
        Ok(Response::new(Extraction {
            id: "new".into(),
            state: State::Queued.into(),
            config,
            ..Extraction::default()
        }))
    }

    async fn get_extraction(&self, request: tonic::Request<GetExtractionRequest>) -> Answer<Extraction> {
        Ok(Response::new(self.0.inspection.extraction(&request.into_inner().name)?))
    }

    async fn list_extractions(
        &self,
        request: tonic::Request<ListExtractionsRequest>,
    ) -> Answer<ListExtractionsResponse> {
        let request = request.into_inner();
        let mut extractions = self.0.inspection.extractions.lock().unwrap().clone();
        extractions.retain(|extraction| request.model.is_empty() || extraction.model_handle == request.model);
        let (extractions, next_page_token) = page(&extractions, &request.page_token);
        Ok(Response::new(ListExtractionsResponse { extractions, next_page_token }))
    }

    async fn cancel_extraction(
        &self,
        request: tonic::Request<CancelExtractionRequest>,
    ) -> Answer<Extraction> {
        self.0.refused()?;
        self.0.inspection.with_state(&request.into_inner().name, State::Cancelled)
    }

    async fn resume_extraction(
        &self,
        request: tonic::Request<ResumeExtractionRequest>,
    ) -> Answer<Extraction> {
        self.0.refused()?;
        self.0.inspection.with_state(&request.into_inner().name, State::Running)
    }

    async fn delete_extraction(&self, request: tonic::Request<DeleteExtractionRequest>) -> Answer<()> {
        self.0.refused()?;
        self.0.named.lock().unwrap().push(request.into_inner().name);
        Ok(Response::new(()))
    }

    type WatchExtractionStream = Streaming<Extraction>;

    async fn watch_extraction(
        &self,
        _: tonic::Request<WatchExtractionRequest>,
    ) -> Answer<Self::WatchExtractionStream> {
        Err(Status::unimplemented("fake"))
    }

    type WatchExtractionsStream = Streaming<Extraction>;

    async fn watch_extractions(
        &self,
        _: tonic::Request<WatchExtractionsRequest>,
    ) -> Answer<Self::WatchExtractionsStream> {
        let present = self.0.inspection.extractions.lock().unwrap().clone();
        Ok(Response::new(news(present, &self.0.inspection.extraction_news)))
    }

    type ReadExtractionFileStream = Streaming<FileChunk>;

    async fn read_extraction_file(
        &self,
        request: tonic::Request<ReadExtractionFileRequest>,
    ) -> Answer<Self::ReadExtractionFileStream> {
        self.0.refused()?;
        let request = request.into_inner();
        let content = self.0.inspection.content.lock().unwrap().clone();
        let (start, length) = (request.offset as usize, request.length as usize);
        let end = if length == 0 { content.len() } else { content.len().min(start + length) };
        self.0.inspection.reads.lock().unwrap().push(request);
        let chunks: Vec<_> = content[start..end]
            .chunks(3)
            .map(|data| Ok(FileChunk { size_bytes: content.len() as u64, data: data.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(stream::iter(chunks))))
    }

    type ReadActivationsStream = Streaming<ActivationChunk>;

    async fn read_activations(
        &self,
        _: tonic::Request<ReadActivationsRequest>,
    ) -> Answer<Self::ReadActivationsStream> {
        Err(Status::unimplemented("fake"))
    }

    async fn replay_extraction(
        &self,
        request: tonic::Request<ReplayExtractionRequest>,
    ) -> Answer<Extraction> {
        self.0.refused()?;
        let replay_of = request.into_inner().name;
        Ok(Response::new(Extraction { id: "again".into(), replay_of, ..Extraction::default() }))
    }
}
