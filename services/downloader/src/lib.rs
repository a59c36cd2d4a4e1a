//! Downloads models: from the hub to verified files to a quantized model. This crate owns the models folder; the
//! Catalog owns the list of models. Datasets are fetched and registered here, too (`datasets`).
//!
//! A request is resolved first (`resolve`: what the hub has, which files to fetch, how much room they need). It gets
//! a row in the Catalog and waits in the queue (`jobs`). Its job runs through six phases: resolve, reuse, fetch,
//! verify, quantize, seal. Each phase is one file of `jobs/phases`, which says what a `kill -9` in that phase leaves.
//! `repair` resumes interrupted jobs at the next start. The row becomes READY last.
//!
//! | folder | content |
//! |---|---|
//! | `service` | the gRPC calls |
//! | `jobs` | the queue, a job and its phases |
//! | `datasets` | datasets: their calls, jobs and rows |
//! | `resolve` | which files make the model, and the download plan |
//! | `transfer` | one file from the hub to the disk |
//! | `store` | the models folder, manifests, locks, the Hugging Face cache |
//! | `repair` | the comparison of Catalog and disk |
//! | `hub` | the hub's client |

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

mod catalog_client;
mod context;
mod datasets;
mod error;
mod hub;
mod jobs;
mod limits;
mod progress;
mod repair;
mod resolve;
mod retry;
mod service;
mod store;
mod transfer;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use millm_dataset::AllowedFolders;
use millm_kit::{Channel, Host, Secret, Settings};
use millm_model::memory::Workload;
use millm_proto::downloader::v1::downloader_service_server::DownloaderServiceServer;
use tonic::codec::CompressionEncoding;

pub use error::BuildError;
pub use store::disk_space::DiskSpace;

use catalog_client::CatalogClient;
use context::Context;
use datasets::{DatasetsCatalog, jobs::DatasetJobs};
use hub::client::Hub;
use jobs::queue::{Queue, QueueWorker};
use limits::HubLimits;
use service::Service;
use store::{disk_space::StatvfsDisk, hf_cache::HfCache, models_dir::ModelsDir};

/// The Downloader service before it is mounted on a host.
#[derive(Debug)]
pub struct Downloader {
    hub: Hub,
    models_dir: ModelsDir,
    hf_cache: Option<HfCache>,
    catalog: CatalogClient,
    datasets: DatasetsCatalog,
    dataset_folders: AllowedFolders,
    runtime: Channel,
    disk: Arc<dyn DiskSpace>,
    workload: Workload,
    token: Option<Secret>,
    max_concurrent_downloads: usize,
    threads: usize,
}

impl Downloader {
    /// Opens the models folder and makes the hub's client. Calls neither the hub nor another service.
    ///
    /// # Errors
    ///
    /// Returns [`BuildError::Folder`] when the models folder cannot be written, and [`BuildError::Http`] when no HTTP
    /// client can be made.
    pub fn build(settings: &Settings, catalog: Channel, runtime: Channel) -> Result<Self, BuildError> {
        Ok(Self {
            hub: Hub::new(&settings.hf_endpoint, HubLimits::new(settings))?,
            models_dir: ModelsDir::open(&settings.model_cache_dir)?,
            hf_cache: settings.hf_hub_cache.clone().map(HfCache::new),
            catalog: CatalogClient::new(catalog.clone()),
            datasets: DatasetsCatalog::new(catalog),
            dataset_folders: AllowedFolders::new(dataset_folders(settings)),
            runtime,
            disk: Arc::new(StatvfsDisk),
            workload: Workload::served(
                settings.context_length as usize,
                settings.parallel_requests as usize,
                (settings.kv_cache_tokens > 0).then_some(settings.kv_cache_tokens as usize),
            ),
            token: settings.hf_token.clone(),
            max_concurrent_downloads: settings.max_concurrent_downloads.max(1) as usize,
            threads: settings.threads as usize,
        })
    }

    /// Replaces the disk-space probe (for tests).
    #[must_use]
    pub fn with_disk(mut self, disk: Arc<dyn DiskSpace>) -> Self {
        self.disk = disk;
        self
    }

    /// Mounts the gRPC service on `host`, starts the repair and the jobs, and returns a connection to the service.
    pub async fn mount(self, host: &mut Host) -> Channel {
        let context = Arc::new(Context {
            hub: self.hub,
            models_dir: self.models_dir,
            hf_cache: self.hf_cache,
            catalog: self.catalog,
            datasets: self.datasets,
            dataset_jobs: DatasetJobs::new(self.max_concurrent_downloads),
            dataset_folders: self.dataset_folders,
            runtime: self.runtime,
            disk: self.disk,
            workload: self.workload,
            token: self.token,
            max_concurrent_downloads: self.max_concurrent_downloads,
            threads: self.threads,
            tasks: host.tasks.clone(),
            shutdown: host.shutdown.stopping.clone(),
        });
        let (queue, worker) = Queue::new(&context);
        context.tasks.spawn(repair_then_work(Arc::clone(&context), worker));
        context.tasks.spawn(repair::sweep::run(Arc::clone(&context), queue.clone()));
        let service = DownloaderServiceServer::new(Service { context, queue });
        host.grpc(service.accept_compressed(CompressionEncoding::Gzip)).await
    }
}

/// The startup order: repair, then the interrupted jobs, then new calls. The service is mounted meanwhile; calls that
/// need the queue wait until [`QueueWorker::run`] has taken the interrupted jobs.
async fn repair_then_work(context: Arc<Context>, worker: QueueWorker) {
    if let Some(interrupted) = repair::startup::run(&context).await {
        datasets::startup::run(&context).await;
        worker.run(interrupted).await;
    }
}

/// Returns the folders below which datasets may lie: those of the settings, else the data folder and the working folder.
/// The root of the file system is never a default, although a container may run there.
fn dataset_folders(settings: &Settings) -> Vec<PathBuf> {
    if !settings.dataset_dirs.is_empty() {
        return settings.dataset_dirs.clone();
    }
    let data = settings.model_cache_dir.parent().map(std::path::Path::to_path_buf);
    let working = std::env::current_dir().ok();
    let is_root = |folder: &PathBuf| folder.canonicalize().is_ok_and(|folder| folder.parent().is_none());
    [data, working].into_iter().flatten().filter(|folder| !is_root(folder)).collect()
}
