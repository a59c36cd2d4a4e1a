//! The gRPC face: each call handed to the part that does it.

use std::sync::Arc;

use millm_kit::{ModelRef, ServiceError};
use millm_proto::{
    catalog::v1::{Model, model},
    downloader::v1::{
        CancelDownloadRequest, CheckStorageRequest, Download, GetHubStatusRequest, HubStatus,
        ListDownloadsRequest, ListDownloadsResponse, ModelPreview, PreviewModelRequest, RemoveModelRequest,
        SearchReposRequest, SearchReposResponse, StartDownloadRequest, StorageReport, WatchDownloadRequest,
        WatchDownloadsRequest, download::State, downloader_service_server::DownloaderService,
    },
};
use tokio::sync::watch::{self, Receiver};
use tonic::{Request, Response, Status};

use crate::{
    context::Context,
    hub_view,
    preview::preview,
    queue::{Queue, first_snapshot},
    remove::remove,
    start::start,
    storage,
    watch::{Downloads, all, one},
};

#[derive(Debug, Clone)]
pub struct Service {
    pub context: Arc<Context>,
    pub queue: Queue,
}

impl Service {
    async fn id_of(&self, name: &str) -> Result<i64, ServiceError> {
        match ModelRef::parse(name)? {
            ModelRef::Id(id) if self.queue.watcher(id).is_some() => Ok(id),
            ModelRef::Id(id) if name.contains('/') => {
                Ok(self.context.registry.get(&format!("models/{id}")).await?.id)
            }
            _ => Ok(self.context.registry.get(name).await?.id),
        }
    }

    /// That of a model which ended in an earlier life of this process is made from its row.
    async fn watcher(&self, name: &str) -> Result<Receiver<Download>, ServiceError> {
        let id = self.id_of(name).await?;
        self.queue.wait_ready().await?;
        if let Some(watcher) = self.queue.watcher(id) {
            return Ok(watcher);
        }
        let row = self.context.registry.get(&format!("models/{id}")).await?;
        let download =
            ended(&row).ok_or_else(|| ServiceError::not_found(format!("download of '{}'", row.handle)))?;
        Ok(watch::channel(download).1)
    }
}

fn ended(row: &Model) -> Option<Download> {
    let mut download = first_snapshot(row);
    download.start_time = row.create_time;
    download.end_time = row.update_time;
    match row.state() {
        model::State::Ready => {
            download.set_state(State::Succeeded);
            download.fraction = 1.0;
        }
        model::State::Error => {
            download.set_state(State::Failed);
            download.error.clone_from(&row.error);
        }
        _ => return None,
    }
    Some(download)
}

#[tonic::async_trait]
impl DownloaderService for Service {
    async fn search_repos(
        &self,
        request: Request<SearchReposRequest>,
    ) -> Result<Response<SearchReposResponse>, Status> {
        Ok(Response::new(hub_view::search(&self.context, request.into_inner()).await?))
    }

    async fn get_hub_status(&self, _: Request<GetHubStatusRequest>) -> Result<Response<HubStatus>, Status> {
        Ok(Response::new(hub_view::status(&self.context.hub)))
    }

    async fn preview_model(
        &self,
        request: Request<PreviewModelRequest>,
    ) -> Result<Response<ModelPreview>, Status> {
        Ok(Response::new(preview(&self.context, request.into_inner()).await?))
    }

    async fn start_download(
        &self,
        request: Request<StartDownloadRequest>,
    ) -> Result<Response<Download>, Status> {
        let (context, queue) = (Arc::clone(&self.context), self.queue.clone());
        // Large: it holds what the survey found.
        Ok(Response::new(Box::pin(start(context, queue, request.into_inner())).await?))
    }

    async fn cancel_download(&self, request: Request<CancelDownloadRequest>) -> Result<Response<()>, Status> {
        let name = request.into_inner().name;
        let id = self.id_of(&name).await?;
        match self.queue.cancel(id).await? {
            Some(download) if download.state() == State::Cancelled => Ok(Response::new(())),
            // None, or it came to another end first.
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

    type WatchDownloadStream = Downloads;

    async fn watch_download(
        &self,
        request: Request<WatchDownloadRequest>,
    ) -> Result<Response<Downloads>, Status> {
        let watcher = self.watcher(&request.into_inner().name).await?;
        Ok(Response::new(one(watcher, self.context.stopping.clone())))
    }

    type WatchDownloadsStream = Downloads;

    async fn watch_downloads(
        &self,
        _: Request<WatchDownloadsRequest>,
    ) -> Result<Response<Downloads>, Status> {
        Ok(Response::new(all(self.queue.board(), self.context.stopping.clone())))
    }

    async fn remove_model(&self, request: Request<RemoveModelRequest>) -> Result<Response<()>, Status> {
        let (context, queue) = (Arc::clone(&self.context), self.queue.clone());
        let work = remove(context, queue, request.into_inner().name);
        self.context.to_its_end(work).await?;
        Ok(Response::new(()))
    }

    async fn check_storage(
        &self,
        request: Request<CheckStorageRequest>,
    ) -> Result<Response<StorageReport>, Status> {
        self.queue.wait_ready().await?;
        let (context, fix) = (Arc::clone(&self.context), request.into_inner().fix);
        let work = async move { storage::report(&context, fix).await };
        Ok(Response::new(self.context.to_its_end(work).await?))
    }
}
