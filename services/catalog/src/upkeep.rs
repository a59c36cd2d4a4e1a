//! What runs beside the service: health follows the database, and changes of other catalogues on the same
//! PostgreSQL database reach the watchers here.

use std::{sync::Arc, time::Duration};

use millm_proto::catalog::v1::catalog_service_server::SERVICE_NAME;
use sqlx::postgres::{PgListener, PgPool};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{Core, unless, watch::Change};

const CALM: Duration = Duration::from_secs(10);
const TROUBLE: Duration = Duration::from_secs(1);

/// Looks after the database now and then, at once when a call failed, and every second until it is well again.
pub async fn follow_health(core: Arc<Core>, health: HealthReporter, stopping: CancellationToken) {
    let mut well = true;
    loop {
        let pause = if well { CALM } else { TROUBLE };
        tokio::select! {
            () = stopping.cancelled() => return,
            () = core.trouble.notified(), if well => {}
            () = tokio::time::sleep(pause) => {}
        }
        let now = core.store.ping().await;
        if now.is_ok() == well {
            continue;
        }
        well = now.is_ok();
        match &now {
            Ok(()) => tracing::info!("the database answers again"),
            Err(error) => tracing::warn!("not ready: {error}"),
        }
        let status = if well { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(SERVICE_NAME, status).await;
        if well {
            // What others wrote meanwhile.
            core.feed.publish(Change::Resync);
        }
    }
}

/// Publishes what any catalogue on this database writes; watchers know what they have been told already.
pub async fn follow_others(core: Arc<Core>, pool: PgPool, stopping: CancellationToken) {
    loop {
        let Some(ended) = unless(&stopping, Box::pin(listen(&core, &pool))).await else { return };
        if let Err(error) = ended {
            tracing::warn!("listening for changes of other catalogues: {error}");
        }
        if unless(&stopping, tokio::time::sleep(TROUBLE)).await.is_none() {
            return;
        }
    }
}

async fn listen(core: &Core, pool: &PgPool) -> Result<(), sqlx::Error> {
    let (schema,): (String,) = sqlx::query_as("SELECT current_schema()::text").fetch_one(pool).await?;
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("millm_models").await?;
    // What was written before the ear was open.
    core.feed.publish(Change::Resync);
    loop {
        let Some(notification) = listener.try_recv().await? else {
            core.feed.publish(Change::Resync);
            continue;
        };
        let Some((its_schema, id)) = notification.payload().rsplit_once(':') else { continue };
        let Ok(id) = id.parse() else { continue };
        if its_schema != schema {
            continue;
        }
        let _writing = core.writing.lock().await;
        match core.store.get(id).await {
            Ok(Some(row)) => {
                let version = row.version;
                core.feed.publish(Change::Put(Arc::new(row.into_model()), version));
            }
            Ok(None) => core.feed.publish(Change::Deleted(id)),
            Err(_) => core.feed.publish(Change::Resync),
        }
    }
}
