//! At the start: the disk and the Catalog are made to agree again, whatever ended the last run.

use std::{collections::HashMap, fs, time::Duration};

use millm_kit::ServiceError;
use millm_proto::catalog::v1::{Model, Source, model::State};

use crate::{context::Context, queue::Order, remove::remove_files};

/// How long the bytes of a failed download wait for a retry.
const FAILED_BYTES_KEPT: Duration = Duration::from_hours(7 * 24);

/// Removes what nobody will need and gives back what is to be gone on with, in the order in which it was asked
/// for. Waits for the Catalog; `None` when the process ends meanwhile.
pub async fn reconcile(context: &Context) -> Option<Vec<Order>> {
    let rows = match context.registry.list_when_back(&context.stopping).await? {
        Ok(rows) => rows,
        Err(error) => {
            tracing::error!(error = error.message, "the catalogue cannot be read: nothing is resumed");
            return Some(Vec::new());
        }
    };
    let by_id: HashMap<i64, &Model> = rows.iter().map(|row| (row.id, row)).collect();
    if let Err(error) = clear_incoming(context, &by_id) {
        tracing::warn!(%error, "the models folder could not be cleared");
    }
    for row in rows.iter().filter(|row| row.state() == State::Deleting) {
        tracing::info!(id = row.id, handle = row.handle, "finishing a removal");
        if let Err(error) = finish_removal(context, row).await {
            tracing::warn!(id = row.id, error = error.message, "removal not finished");
        }
    }
    let mut pending: Vec<_> = rows.into_iter().filter(|row| row.state() == State::Pending).collect();
    pending.sort_by_key(|row| (row.create_time.map(|time| (time.seconds, time.nanos)), row.id));
    let mut orders = Vec::new();
    for row in pending {
        tracing::info!(id = row.id, handle = row.handle, "resuming");
        if row.source() == Source::Local
            && crate::quantization::scheme(row.requested_quantization()).is_none()
        {
            if let Err(error) = crate::local::register(context, &row).await {
                let _ = context.registry.fail_when_back(&context.stopping, row.id, &error).await;
            }
        } else {
            // The request is gone with the process that had it: its token too.
            orders.push(Order { row, token: context.token.clone(), keep_source: false });
        }
    }
    Some(orders)
}

async fn finish_removal(context: &Context, row: &Model) -> Result<(), ServiceError> {
    remove_files(context, row).await?;
    context.registry.delete(row.id).await
}

/// Folders of rows that are gone or READY, and of failures that nobody retried.
fn clear_incoming(context: &Context, rows: &HashMap<i64, &Model>) -> std::io::Result<()> {
    for id in context.cache.incoming_ids()? {
        let incoming = context.cache.incoming(id);
        let old = || {
            let age =
                fs::metadata(incoming.path()).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            age.is_some_and(|age| age > FAILED_BYTES_KEPT)
        };
        let keep = match rows.get(&id).map(|row| row.state()) {
            Some(State::Pending) => true,
            Some(State::Error) => !old(),
            _ => false,
        };
        if !keep {
            tracing::info!(id, folder = %incoming.path().display(), "removing what no model needs");
            incoming.remove()?;
        }
    }
    Ok(())
}
