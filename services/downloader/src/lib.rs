//! Gets models: hub to verified to quantized. Owns the models folder; what exists is the Catalog's to know.
//!
//! A request is looked at ([`survey`]: what the hub has, [`select`]: which files, [`plan`]: sizes and room), gets a
//! row, and waits in the [`queue`]. A [`job`] looks for what is here already ([`reuse`]), fetches the rest
//! ([`transfer`]), verifies, quantizes, seals ([`meta`]) and renames; the row becomes READY last. Whatever ends the process, [`reconcile`] goes on from there.

mod cache;
mod context;
mod describe;
mod digest;
mod disk;
mod error;
mod estimate;
mod fetch;
mod hub;
mod hub_cache;
mod hub_view;
mod job;
mod local;
mod lock;
mod meta;
mod offline;
mod plan;
mod policy;
mod preview;
mod progress;
mod quantization;
mod quantize;
mod queue;
mod ready;
mod reconcile;
mod registry;
mod remove;
mod reuse;
mod select;
mod service;
mod start;
mod storage;
mod survey;
mod transfer;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use millm_kit::{Conn, Host, Secret, Settings};
use millm_model::memory::Workload;
use millm_proto::downloader::v1::downloader_service_server::DownloaderServiceServer;
use tonic::codec::CompressionEncoding;

pub use disk::DiskSpace;
pub use error::BuildError;

use cache::Cache;
use context::Context;
use disk::RealDisk;
use hub::Hub;
use hub_cache::HubCache;
use policy::Policy;
use queue::Queue;
use registry::Registry;
use service::Service;

/// The service before it is mounted.
#[derive(Debug)]
pub struct Downloader {
    hub: Hub,
    cache: Cache,
    hub_cache: Option<HubCache>,
    registry: Registry,
    runtime: Conn,
    disk: Arc<dyn DiskSpace>,
    workload: Workload,
    token: Option<Secret>,
    downloads_at_once: usize,
    threads: usize,
}

impl Downloader {
    /// Shows that the models folder can be written; neither the hub nor another service is asked yet.
    pub fn build(settings: &Settings, catalog: Conn, runtime: Conn) -> Result<Self, BuildError> {
        Ok(Self {
            hub: Hub::new(&settings.hf_endpoint, Policy::new(settings))?,
            cache: Cache::open(&settings.model_cache_dir)?,
            hub_cache: settings.hf_hub_cache.clone().map(HubCache::new),
            registry: Registry::new(catalog),
            runtime,
            disk: Arc::new(RealDisk),
            workload: Workload::served(
                settings.context_length as usize,
                settings.parallel_requests as usize,
                (settings.kv_cache_tokens > 0).then_some(settings.kv_cache_tokens as usize),
            ),
            token: settings.hf_token.clone(),
            downloads_at_once: settings.max_concurrent_downloads.max(1) as usize,
            threads: settings.threads as usize,
        })
    }

    /// Asks another about free space.
    #[must_use]
    pub fn with_disk(mut self, disk: Arc<dyn DiskSpace>) -> Self {
        self.disk = disk;
        self
    }

    /// Begins with what the last run left, as soon as the Catalog answers.
    pub async fn mount(self, host: &mut Host) -> Conn {
        let context = Arc::new(Context {
            hub: self.hub,
            cache: self.cache,
            hub_cache: self.hub_cache,
            registry: self.registry,
            runtime: self.runtime,
            disk: self.disk,
            workload: self.workload,
            token: self.token,
            downloads_at_once: self.downloads_at_once,
            threads: self.threads,
            tasks: host.tasks.clone(),
            stopping: host.shutdown.stopping.clone(),
        });
        let queue = Queue::start(&context);
        context.tasks.spawn(storage::sweep(Arc::clone(&context), queue.clone()));
        let service = DownloaderServiceServer::new(Service { context, queue });
        host.grpc(service.accept_compressed(CompressionEncoding::Gzip)).await
    }
}
