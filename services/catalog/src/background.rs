//! Background tasks: the health check of the database, and the listener for changes that other catalogs make in the
//! same PostgreSQL database.

use std::{sync::Arc, time::Duration};

use millm_proto::catalog::v1::catalog_service_server::SERVICE_NAME;
use sqlx::postgres::{PgListener, PgPool};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{change_feed::Change, context::Context};

/// The interval of health checks while the database is healthy.
const HEALTHY_INTERVAL: Duration = Duration::from_secs(10);
/// The interval of health checks, and the pause between attempts to listen, while it is not.
const UNHEALTHY_INTERVAL: Duration = Duration::from_secs(1);

/// Checks the database regularly and after failed queries, and reports its health.
pub(crate) async fn monitor_health(
    context: Arc<Context>,
    health: HealthReporter,
    stopping: CancellationToken,
) {
    let mut is_healthy = true;
    loop {
        let interval = if is_healthy { HEALTHY_INTERVAL } else { UNHEALTHY_INTERVAL };
        tokio::select! {
            () = stopping.cancelled() => return,
            () = context.query_failed.notified(), if is_healthy => {}
            () = tokio::time::sleep(interval) => {}
        }
        let result = context.store.ping().await;
        if result.is_ok() == is_healthy {
            continue;
        }
        is_healthy = result.is_ok();
        match &result {
            Ok(()) => tracing::info!("the database answers again"),
            Err(error) => tracing::warn!("the catalog is not ready: {error}"),
        }
        let status = if is_healthy { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(SERVICE_NAME, status).await;
        if is_healthy {
            // Other catalogs may have written in the meantime.
            context.feed.publish(Change::Resync);
        }
    }
}

/// Publishes the changes of all catalogs on this database, forever.
///
/// Watchers ignore versions that they have sent already, so this catalog's own changes are not sent twice.
pub(crate) async fn listen_for_changes(context: Arc<Context>, pool: PgPool) {
    loop {
        if let Err(error) = listen(&context, &pool).await {
            tracing::warn!("cannot listen for changes of other catalogs: {error}");
        }
        tokio::time::sleep(UNHEALTHY_INTERVAL).await;
    }
}

async fn listen(context: &Context, pool: &PgPool) -> Result<(), sqlx::Error> {
    let (schema,): (String,) = sqlx::query_as("SELECT current_schema()::text").fetch_one(pool).await?;
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("millm_models").await?;
    // Changes from before LISTEN were not notified.
    context.feed.publish(Change::Resync);
    loop {
        let Some(notification) = listener.try_recv().await? else {
            context.feed.publish(Change::Resync);
            continue;
        };
        let Some((changed_schema, id)) = notification.payload().rsplit_once(':') else { continue };
        let Ok(id) = id.parse() else { continue };
        if changed_schema != schema {
            continue;
        }
        let _write_lock = context.write_lock.lock().await;
        match context.store.get(id).await {
            Ok(Some(row)) => drop(context.publish(row)),
            Ok(None) => context.feed.publish(Change::Deleted(id)),
            Err(_) => context.feed.publish(Change::Resync),
        }
    }
}
