//! At the start: the disk and the Catalog are made to agree again, whatever ended the last run.

use std::time::Duration;

use millm_kit::ServiceError;
use millm_proto::catalog::v1::{Model, Source, model::State};

use crate::{
    context::Context,
    plan::Plan,
    queue::Order,
    storage::{self, Check},
};

/// Between two attempts at a catalogue that answers, but not well.
const PAUSE: Duration = Duration::from_secs(2);

/// Mends what can be mended and gives back what is to be gone on with, in the order in which it was asked for. Waits
/// for the Catalog: until it is known what exists, nothing is begun or removed. `None` when the process ends meanwhile.
pub async fn reconcile(context: &Context) -> Option<Vec<Order>> {
    let check = loop {
        match look(context).await? {
            Ok(check) => break check,
            Err(error) => {
                tracing::error!(error = error.message, "what is there cannot be read: trying again");
            }
        }
        tokio::select! {
            () = context.stopping.cancelled() => return None,
            () = tokio::time::sleep(PAUSE) => {}
        }
    };
    check.mend_all(context).await;
    let mut pending: Vec<_> = check.rows.into_iter().filter(|row| row.state() == State::Pending).collect();
    pending.sort_by_key(asked_at);
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
            let plan = Plan::load(&context.cache.incoming(row.id), &row.commit);
            let bytes = plan.map_or(0, |plan| plan.download_bytes());
            orders.push(Order { row, token: context.token.clone(), keep_source: false, bytes });
        }
    }
    Some(orders)
}

async fn look(context: &Context) -> Option<Result<Check, ServiceError>> {
    let listing = match context.registry.list_when_back(&context.stopping).await? {
        Ok(listing) => listing,
        Err(error) => return Some(Err(error)),
    };
    context.cache.keep_for(&listing.catalog);
    Some(storage::check(context).await)
}

/// When the row became PENDING: one that is tried again has been in the catalogue for longer.
fn asked_at(row: &Model) -> (Option<(i64, i32)>, i64) {
    let time = row.update_time.or(row.create_time);
    (time.map(|time| (time.seconds, time.nanos)), row.id)
}
