//! The catalog: the registry of models, datasets and templates, and the only crate that uses SQL. It calls no other
//! service.
//!
//! A [`Catalog`] opens the database that the settings name and is mounted into a host. Every write of a model holds one
//! lock, under which it is also published, so that watchers see changes in the order of their writing. Datasets and
//! templates are not watched; their writes check the row's version alone.

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

mod background;
mod change_feed;
mod context;
mod datasets;
mod entities;
mod error;
mod field_mask;
mod model_handle;
mod resource;
mod service;
mod store;
mod templates;
mod validate;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use millm_kit::{Channel, Host, Settings};
use millm_proto::catalog::v1::{
    catalog_service_server::CatalogServiceServer, datasets_service_server::DatasetsServiceServer,
    templates_service_server::TemplatesServiceServer,
};
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
        let context = Context::new(opened.store, opened.entities, opened.catalog_id);
        Ok(Self { context, postgres: opened.postgres })
    }

    /// Mounts the services into `host` and returns a channel to them. The health of the models' service follows the
    /// database.
    pub async fn mount(self, host: &mut Host) -> Channel {
        let context = Arc::new(self.context);
        let stopping = host.shutdown.stopping.clone();
        let service = service::Service {
            context: context.clone(),
            tasks: host.tasks.clone(),
            stopping: stopping.clone(),
        };
        let service = CatalogServiceServer::new(service).accept_compressed(CompressionEncoding::Gzip);
        let datasets = DatasetsServiceServer::new(datasets::Service { context: context.clone() })
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(datasets::MAX_MESSAGE_BYTES);
        let templates = TemplatesServiceServer::new(templates::Service { context: context.clone() })
            .accept_compressed(CompressionEncoding::Gzip);
        let models = host.grpc(service).await;
        let channel = models.join(host.grpc(datasets).await).join(host.grpc(templates).await);
        host.tasks.spawn(background::monitor_health(context.clone(), host.health(), stopping.clone()));
        if let Some(pool) = self.postgres {
            let listening = background::listen_for_changes(context, pool);
            host.tasks.spawn(stopping.run_until_cancelled_owned(listening));
        }
        channel
    }
}
