//! The gRPC service. Each call is one function of this folder.

mod convert;
mod preview;
mod remove;
mod start;
mod watch;

use std::sync::Arc;

use millm_kit::{ModelRef, ServiceError};
use millm_proto::downloader::v1::{
    AddDatasetRequest, CancelDownloadRequest, CheckStorageRequest, Download, GetHubStatusRequest, HubStatus,
    ListDownloadsRequest, ListDownloadsResponse, ModelPreview, PreviewModelRequest, ReadDatasetRowsRequest,
    ReadDatasetRowsResponse, RemoveDatasetRequest, RemoveModelRequest, SearchReposRequest,
    SearchReposResponse, StartDownloadRequest, StorageReport, WatchDownloadRequest, WatchDownloadsRequest,
    download::State, downloader_service_server::DownloaderService,
};
use tokio::sync::watch::{Receiver, channel};
use tonic::{Request, Response, Status};

use crate::{
    context::Context,
    datasets::{self, add::ProgressStream},
    jobs::queue::Queue,
    repair,
};
use watch::DownloadStream;

/// The Downloader's gRPC service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) context: Arc<Context>,
    pub(crate) queue: Queue,
}

impl Service {
    /// Returns the model's id, from the queue where it is known there.
    async fn id_of(&self, name: &str) -> Result<i64, ServiceError> {
        match ModelRef::parse(name)? {
            ModelRef::Id(id) if self.queue.watcher(id).is_some() => Ok(id),
            ModelRef::Id(id) if name.contains('/') => {
                Ok(self.context.catalog.get(&format!("models/{id}")).await?.id)
            }
            _ => Ok(self.context.catalog.get(name).await?.id),
        }
    }

    /// Returns the snapshots of a download. For one that ended in an earlier process there is one, made from its row.
    async fn watcher(&self, name: &str) -> Result<Receiver<Download>, ServiceError> {
        let id = self.id_of(name).await?;
        self.queue.wait_ready().await?;
        if let Some(watcher) = self.queue.watcher(id) {
            return Ok(watcher);
        }
        let row = self.context.catalog.get(&format!("models/{id}")).await?;
        let download = convert::ended_download(&row)
            .ok_or_else(|| ServiceError::not_found(format!("download of '{}'", row.handle)))?;
        Ok(channel(download).1)
    }
}

#[tonic::async_trait]
impl DownloaderService for Service {
    async fn search_repos(
        &self,
        request: Request<SearchReposRequest>,
    ) -> Result<Response<SearchReposResponse>, Status> {
        Ok(Response::new(convert::search(&self.context, request.into_inner()).await?))
    }

    async fn get_hub_status(&self, _: Request<GetHubStatusRequest>) -> Result<Response<HubStatus>, Status> {
        Ok(Response::new(convert::hub_status(&self.context.hub)))
    }

    async fn preview_model(
        &self,
        request: Request<PreviewModelRequest>,
    ) -> Result<Response<ModelPreview>, Status> {
        Ok(Response::new(preview::preview(&self.context, request.into_inner()).await?))
    }

    async fn start_download(
        &self,
        request: Request<StartDownloadRequest>,
    ) -> Result<Response<Download>, Status> {
        let (context, queue) = (Arc::clone(&self.context), self.queue.clone());
        // The future is large: it holds the inspection of the repository.
        Ok(Response::new(Box::pin(start::start(context, queue, request.into_inner())).await?))
    }

    async fn cancel_download(&self, request: Request<CancelDownloadRequest>) -> Result<Response<()>, Status> {
        let name = request.into_inner().name;
        let id = self.id_of(&name).await?;
        match self.queue.cancel(id).await? {
            Some(download) if download.state() == State::Cancelled => Ok(Response::new(())),
            // There was no download, or it ended before the cancel.
            _ => Err(ServiceError::not_found(format!("download under way for '{name}'")).into()),
        }
    }

    async fn list_downloads(
        &self,
        _: Request<ListDownloadsRequest>,
    ) -> Result<Response<ListDownloadsResponse>, Status> {
        self.queue.wait_ready().await?;
        let board = self.queue.board().borrow().clone();
        let mut downloads: Vec<Download> =
            board.values().map(|entry| entry.watcher.borrow().clone()).collect();
        downloads.sort_by_key(|download| {
            let ended = download.end_time.map_or(0, |time| time.seconds);
            (ended, download.queue_position, download.model_id)
        });
        Ok(Response::new(ListDownloadsResponse { downloads }))
    }

    type WatchDownloadStream = DownloadStream;

    async fn watch_download(
        &self,
        request: Request<WatchDownloadRequest>,
    ) -> Result<Response<DownloadStream>, Status> {
        let watcher = self.watcher(&request.into_inner().name).await?;
        Ok(Response::new(watch::watch_one(watcher, self.context.shutdown.clone())))
    }

    type WatchDownloadsStream = DownloadStream;

    async fn watch_downloads(
        &self,
        _: Request<WatchDownloadsRequest>,
    ) -> Result<Response<DownloadStream>, Status> {
        Ok(Response::new(watch::watch_all(self.queue.board(), self.context.shutdown.clone())))
    }

    async fn remove_model(&self, request: Request<RemoveModelRequest>) -> Result<Response<()>, Status> {
        let (context, queue) = (Arc::clone(&self.context), self.queue.clone());
        let work = remove::remove(context, queue, request.into_inner().name);
        self.context.run_to_completion(work).await?;
        Ok(Response::new(()))
    }

    async fn check_storage(
        &self,
        request: Request<CheckStorageRequest>,
    ) -> Result<Response<StorageReport>, Status> {
        self.queue.wait_ready().await?;
        let (context, fix) = (Arc::clone(&self.context), request.into_inner().fix);
        let work = async move { repair::report::report(&context, fix).await };
        Ok(Response::new(self.context.run_to_completion(work).await?))
    }

    type AddDatasetStream = ProgressStream;

    async fn add_dataset(
        &self,
        request: Request<AddDatasetRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        let (context, queue) = (Arc::clone(&self.context), self.queue.clone());
        // The future is large: it holds the listing of the repository.
        let stream = Box::pin(datasets::add::add(context, queue, request.into_inner())).await?;
        Ok(Response::new(stream))
    }

    async fn remove_dataset(&self, request: Request<RemoveDatasetRequest>) -> Result<Response<()>, Status> {
        let work = datasets::remove::remove(Arc::clone(&self.context), request.into_inner().name);
        self.context.run_to_completion(work).await?;
        Ok(Response::new(()))
    }

    async fn read_dataset_rows(
        &self,
        request: Request<ReadDatasetRowsRequest>,
    ) -> Result<Response<ReadDatasetRowsResponse>, Status> {
        Ok(Response::new(datasets::rows::read(&self.context, request.into_inner()).await?))
    }
}
