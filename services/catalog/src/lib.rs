//! The catalog: the registry of models, and the only crate that uses SQL. It calls no other service.
//!
//! A [`Catalog`] opens the database that the settings name and is mounted into a host. Every write holds one lock, under
//! which it is also published, so that watchers see changes in the order of their writing.

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

mod background;
mod change_feed;
mod context;
mod error;
mod field_mask;
mod model_handle;
mod service;
mod store;
mod validate;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use millm_kit::{Channel, Host, Settings};
use millm_proto::catalog::v1::catalog_service_server::CatalogServiceServer;
use sqlx::postgres::PgPool;
use tonic::codec::CompressionEncoding;

use crate::context::Context;
pub use crate::error::BuildError;

/// A catalog that is not served yet.
pub struct Catalog {
    context: Context,
    postgres: Option<PgPool>,
}

impl Catalog {
    /// Opens the database and migrates its tables. Waits a few seconds for a PostgreSQL server that is starting.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be created, opened or migrated.
    pub async fn build(settings: &Settings) -> Result<Self, BuildError> {
        let opened = store::open(&settings.database_url).await?;
        Ok(Self { context: Context::new(opened.store, opened.catalog_id), postgres: opened.postgres })
    }

    /// Mounts the service into `host` and returns a channel to it. Its health follows the database.
    pub async fn mount(self, host: &mut Host) -> Channel {
        let context = Arc::new(self.context);
        let stopping = host.shutdown.stopping.clone();
        let service = service::Service {
            context: context.clone(),
            tasks: host.tasks.clone(),
            stopping: stopping.clone(),
        };
        let service = CatalogServiceServer::new(service).accept_compressed(CompressionEncoding::Gzip);
        let channel = host.grpc(service).await;
        host.tasks.spawn(background::monitor_health(context.clone(), host.health(), stopping.clone()));
        if let Some(pool) = self.postgres {
            let listening = background::listen_for_changes(context, pool);
            host.tasks.spawn(stopping.run_until_cancelled_owned(listening));
        }
        channel
    }
}
