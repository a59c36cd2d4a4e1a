//! The gRPC service: finds jobs and models, checks requests, and makes streams. The work is in the other modules.

use std::{collections::HashSet, pin::Pin, sync::Arc, time::Duration};

use async_stream::stream;
use futures::{Stream, StreamExt as _};
use millm_kit::{ServiceError, Shutdown};
use millm_proto::inspection::v1::{
    ActivationChunk, CancelExtractionRequest, DeleteExtractionRequest, DescribeModelRequest,
    EstimateExtractionRequest, Extraction, ExtractionConfig, ExtractionEstimate, FileChunk,
    GetExtractionRequest, ListExtractionsRequest, ListExtractionsResponse, ModelDescription,
    ReadActivationsRequest, ReadExtractionFileRequest, ReplayExtractionRequest, ResumeExtractionRequest,
    StartExtractionRequest, WatchExtractionRequest, WatchExtractionsRequest, extraction::State,
    inspection_service_server::InspectionService, read_activations_request::Source,
};
use tokio_stream::StreamMap;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::{
    activations, describe,
    files::{self, JobActivations},
    job::JobState,
    jobs::{Job, Jobs},
    request,
    run::Runner,
    texts::DatasetsClient,
};
use crate::{error, model_finder::ModelFinder, service::progress_stream};

/// The most jobs of a page, and how many there are unless a request says otherwise.
const MAX_PAGE: usize = 1000;
const DEFAULT_PAGE: usize = 100;
/// The shortest time between two messages about a job.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// The service.
pub(crate) struct Inspection {
    runner: Runner,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Inspection {
    /// Returns the service over jobs that were opened.
    pub fn new(
        models: ModelFinder,
        datasets: DatasetsClient,
        jobs: Jobs,
        tasks: TaskTracker,
        shutdown: Shutdown,
    ) -> Self {
        Self { runner: Runner { models, datasets, jobs, shutdown, tasks } }
    }

    fn job(&self, name: &str) -> Result<Arc<Job>, ServiceError> {
        self.runner.jobs.find(name)
    }

    /// Makes a job and starts it. `replay_of` is the id of the job that it does again; empty for others.
    async fn start(&self, config: ExtractionConfig, replay_of: &str) -> Result<Arc<Job>, ServiceError> {
        let Runner { models, datasets, jobs, .. } = &self.runner;
        if self.runner.shutdown.stopping.is_cancelled() {
            return Err(ServiceError::service_unavailable("runtime"));
        }
        let checked = request::check(&config, models, datasets).await?;
        request::check_disk(&checked, jobs.root())?;
        request::check_memory(&checked.settings, models)?;
        let replay_of = replay_of.to_owned();
        let jobs = jobs.clone();
        let added = tokio::task::spawn_blocking(move || {
            jobs.add(&config, |record| {
                (record.model_id, record.model_handle) = (checked.model.id, checked.model.handle);
                (record.dataset_id, record.dataset_handle) = (checked.dataset.id, checked.dataset.handle);
                record.batch_size = checked.settings.batch_size.unwrap_or_default();
                record.replay_of = replay_of;
            })
        });
        let job = added.await.map_err(error::from_panic)??;
        self.runner.start(Arc::clone(&job));
        Ok(job)
    }
}

#[tonic::async_trait]
impl InspectionService for Inspection {
    async fn describe_model(
        &self,
        request: Request<DescribeModelRequest>,
    ) -> Result<Response<ModelDescription>, Status> {
        let model = self.runner.models.catalog.ready(&request.into_inner().model).await?;
        Ok(Response::new(describe::describe(model).await?))
    }

    async fn estimate_extraction(
        &self,
        request: Request<EstimateExtractionRequest>,
    ) -> Result<Response<ExtractionEstimate>, Status> {
        let config = request.into_inner().config.unwrap_or_default();
        let Runner { models, datasets, jobs, .. } = &self.runner;
        Ok(Response::new(request::estimate(&config, models, datasets, jobs.root()).await?))
    }

    async fn start_extraction(
        &self,
        request: Request<StartExtractionRequest>,
    ) -> Result<Response<Extraction>, Status> {
        let config = request.into_inner().config.unwrap_or_default();
        Ok(Response::new(self.start(config, "").await?.snapshot()))
    }

    async fn get_extraction(
        &self,
        request: Request<GetExtractionRequest>,
    ) -> Result<Response<Extraction>, Status> {
        Ok(Response::new(self.job(&request.into_inner().name)?.snapshot()))
    }

    async fn list_extractions(
        &self,
        request: Request<ListExtractionsRequest>,
    ) -> Result<Response<ListExtractionsResponse>, Status> {
        let ListExtractionsRequest { page_size, page_token, model } = request.into_inner();
        let size = match usize::try_from(page_size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) if size <= MAX_PAGE => size,
            _ => {
                let why = format!("is {page_size}: 0 to {MAX_PAGE} are possible");
                return Err(ServiceError::invalid_argument("page_size", why).into());
            }
        };
        let id = match model.as_str() {
            "" => None,
            name => Some(self.runner.models.resolve(name).await?.0),
        };
        let is_wanted = |shown: &Extraction| {
            id.is_none_or(|id| shown.model_id == id) && (page_token.is_empty() || shown.id < page_token)
        };
        let all = self.runner.jobs.list();
        let mut found = all.iter().map(|job| job.snapshot()).filter(is_wanted);
        let extractions: Vec<Extraction> = found.by_ref().take(size).collect();
        let more = found.next().is_some();
        let last = extractions.last().map(|shown| shown.id.clone());
        let next_page_token = if more { last.unwrap_or_default() } else { String::new() };
        Ok(Response::new(ListExtractionsResponse { extractions, next_page_token }))
    }

    async fn cancel_extraction(
        &self,
        request: Request<CancelExtractionRequest>,
    ) -> Result<Response<Extraction>, Status> {
        let job = self.job(&request.into_inner().name)?;
        job.cancel().await;
        Ok(Response::new(job.snapshot()))
    }

    async fn resume_extraction(
        &self,
        request: Request<ResumeExtractionRequest>,
    ) -> Result<Response<Extraction>, Status> {
        if self.runner.shutdown.stopping.is_cancelled() {
            return Err(ServiceError::service_unavailable("runtime").into());
        }
        let job = self.job(&request.into_inner().name)?;
        self.runner.jobs.resume(&job)?;
        self.runner.start(Arc::clone(&job));
        Ok(Response::new(job.snapshot()))
    }

    async fn delete_extraction(
        &self,
        request: Request<DeleteExtractionRequest>,
    ) -> Result<Response<()>, Status> {
        let job = self.job(&request.into_inner().name)?;
        let jobs = self.runner.jobs.clone();
        let removed = tokio::task::spawn_blocking(move || jobs.remove(&job));
        removed.await.map_err(error::from_panic)??;
        Ok(Response::new(()))
    }

    type WatchExtractionStream = BoxStream<Extraction>;

    async fn watch_extraction(
        &self,
        request: Request<WatchExtractionRequest>,
    ) -> Result<Response<Self::WatchExtractionStream>, Status> {
        let job = self.job(&request.into_inner().name)?;
        Ok(Response::new(Box::pin(progress_stream(job.watch(), is_over))))
    }

    type WatchExtractionsStream = BoxStream<Extraction>;

    async fn watch_extractions(
        &self,
        _: Request<WatchExtractionsRequest>,
    ) -> Result<Response<Self::WatchExtractionsStream>, Status> {
        let (jobs, shutdown) = (self.runner.jobs.clone(), self.runner.shutdown.clone());
        Ok(Response::new(Box::pin(watch_all(jobs, shutdown))))
    }

    type ReadExtractionFileStream = BoxStream<FileChunk>;

    async fn read_extraction_file(
        &self,
        request: Request<ReadExtractionFileRequest>,
    ) -> Result<Response<Self::ReadExtractionFileStream>, Status> {
        let ReadExtractionFileRequest { name, file, offset, length } = request.into_inner();
        let job = self.job(&name)?;
        Ok(Response::new(Box::pin(files::read_file(&job, &file, offset, length).await?)))
    }

    type ReadActivationsStream = BoxStream<ActivationChunk>;

    async fn read_activations(
        &self,
        request: Request<ReadActivationsRequest>,
    ) -> Result<Response<Self::ReadActivationsStream>, Status> {
        let request = request.into_inner();
        let dtype = request::data_type(request.dtype());
        match request.source {
            Some(Source::Prompts(prompts)) => {
                let dtype = dtype.unwrap_or(millm_extraction::DataType::F32);
                let models = &self.runner.models;
                let chunks = activations::of_prompts(models, prompts, &request.points, dtype).await?;
                Ok(Response::new(Box::pin(chunks)))
            }
            Some(Source::Extraction(name)) => {
                let job = self.job(&name)?;
                let opened =
                    tokio::task::spawn_blocking(move || JobActivations::open(&job, &request.points, dtype));
                let mut chunks = opened.await.map_err(error::from_panic)??.chunks();
                let chunks = stream! {
                    while let Some(chunk) = chunks.recv().await {
                        yield chunk;
                    }
                };
                Ok(Response::new(Box::pin(chunks)))
            }
            None => {
                let why = "must be an extraction or prompts";
                Err(ServiceError::invalid_argument("source", why).into())
            }
        }
    }

    async fn replay_extraction(
        &self,
        request: Request<ReplayExtractionRequest>,
    ) -> Result<Response<Extraction>, Status> {
        let job = self.job(&request.into_inner().name)?;
        let record = job.record();
        if record.state != JobState::Succeeded {
            let why = "names an extraction that has not succeeded";
            return Err(ServiceError::invalid_argument("name", why).into());
        }
        let config = ExtractionConfig {
            model: record.model_id.to_string(),
            dataset: format!("datasets/{}", record.dataset_id),
            ..ExtractionConfig::from(&record.config)
        };
        Ok(Response::new(self.start(config, job.id()).await?.snapshot()))
    }
}

fn is_over(shown: &Extraction) -> bool {
    !matches!(shown.state(), State::Queued | State::Running)
}

/// Returns a stream of every job's present state, then of each change, until the server stops.
fn watch_all(jobs: Jobs, shutdown: Shutdown) -> impl Stream<Item = Result<Extraction, Status>> + Send {
    stream! {
        let mut listed = jobs.watch_list();
        let mut streams: StreamMap<String, BoxStream<Extraction>> = StreamMap::new();
        let mut watched = HashSet::new();
        loop {
            listed.borrow_and_update();
            let present = jobs.list();
            watched.retain(|id| present.iter().any(|job| job.id() == *id));
            // The oldest first, as they came.
            for job in present.into_iter().rev() {
                if watched.insert(job.id().to_owned()) {
                    streams.insert(job.id().to_owned(), Box::pin(changes(&job)));
                }
            }
            tokio::select! {
                biased;
                () = shutdown.stopping.cancelled() => break,
                Some((_, shown)) = streams.next() => yield shown,
                changed = listed.changed() => if changed.is_err() { break },
            }
        }
        yield Err(ServiceError::service_unavailable("runtime").into());
    }
}

/// Returns a stream of a job's present state and of each change, for as long as there is the job.
fn changes(job: &Job) -> impl Stream<Item = Result<Extraction, Status>> + Send + use<> {
    let mut values = job.watch();
    stream! {
        loop {
            let shown = values.borrow_and_update().clone();
            yield Ok(shown);
            tokio::time::sleep(MIN_INTERVAL).await;
            if values.changed().await.is_err() {
                break;
            }
        }
    }
}
