//! The registry of models: what exists. The only crate that speaks SQL; it calls nobody.
//!
//! A [`Catalog`] is built on the database that the settings name and mounted into a host, which decides where it
//! lives. Every write passes through one lock, in which it is also published, so that watchers see changes in
//! their order.

mod check;
mod mask;
mod naming;
mod service;
mod store;
mod upkeep;
mod watch;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use millm_kit::{Conn, Host, ServiceError, Settings};
use millm_proto::catalog::v1::catalog_service_server::CatalogServiceServer;
use sqlx::postgres::PgPool;
use tokio::sync::{Mutex, Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::codec::CompressionEncoding;

use store::{Store, StoreError};
use watch::Feed;

/// Why there is no catalogue. Addresses print without their passwords.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot create the folder {} for the database: {cause}", folder.display())]
    Folder { folder: PathBuf, cause: std::io::Error },
    #[error("cannot open the database {url}: {cause}")]
    Open { url: String, cause: sqlx::Error },
    #[error("cannot bring the tables of {url} up to date: {cause}")]
    Migrate { url: String, cause: sqlx::migrate::MigrateError },
}

/// A catalogue that is not served yet.
pub struct Catalog {
    core: Core,
    postgres: Option<PgPool>,
}

impl Catalog {
    /// Opens the database (waiting a few seconds for a server that is starting) and brings its tables up to date.
    pub async fn build(settings: &Settings) -> Result<Self, BuildError> {
        let opened = store::open(&settings.database_url).await?;
        let core = Core {
            store: opened.store,
            identity: opened.identity,
            feed: Feed::default(),
            writing: Mutex::new(()),
            trouble: Notify::new(),
        };
        Ok(Self { core, postgres: opened.postgres })
    }

    /// Serves in `host`; its health follows the database.
    pub async fn mount(self, host: &mut Host) -> Conn {
        let core = Arc::new(self.core);
        let stopping = host.shutdown.stopping.clone();
        let service =
            service::Service { core: core.clone(), tasks: host.tasks.clone(), stopping: stopping.clone() };
        let service = CatalogServiceServer::new(service).accept_compressed(CompressionEncoding::Gzip);
        let conn = host.grpc(service).await;
        host.tasks.spawn(upkeep::follow_health(core.clone(), host.health(), stopping.clone()));
        if let Some(pool) = self.postgres {
            host.tasks.spawn(upkeep::follow_others(core, pool, stopping));
        }
        conn
    }
}

/// What the service and its tasks share.
struct Core {
    store: Box<dyn Store>,
    identity: String,
    feed: Feed,
    /// Held while a change is written and published.
    writing: Mutex<()>,
    /// Wakes the task that watches over the database.
    trouble: Notify,
}

impl Core {
    /// The answer to a caller when the database failed.
    fn failed(&self, error: StoreError) -> ServiceError {
        self.trouble.notify_one();
        error.into()
    }
}

/// Runs `work` to its end even if the caller leaves: what is written is published.
async fn to_its_end<T: Send + 'static>(
    tasks: &TaskTracker,
    work: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
) -> Result<T, ServiceError> {
    tasks.spawn(work).await.unwrap_or_else(|panic| Err(ServiceError::internal(panic)))
}

/// `None` when told to stop first.
async fn unless<T>(stopping: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! { () = stopping.cancelled() => None, done = work => Some(done) }
}
