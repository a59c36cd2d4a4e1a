//! The repair at startup. Whatever ended the last process, Catalog and models folder agree afterwards, and interrupted
//! downloads are returned as jobs.

use millm_kit::ServiceError;
use millm_proto::catalog::v1::{Model, Source, model::State};

use super::{
    apply::apply,
    check::{Check, check},
};
use crate::{
    context::Context,
    jobs::{local, queue::JobRequest},
    resolve::{plan::DownloadPlan, quantization},
    retry::RetryPolicy,
};

/// Repairs what can be repaired, and returns the interrupted jobs in the order in which they were requested. It waits
/// for the Catalog: nothing begins and nothing is removed before the rows are known. Returns `None` when the process
/// stops meanwhile.
pub(crate) async fn run(context: &Context) -> Option<Vec<JobRequest>> {
    let attempt = || first_check(context);
    let check = RetryPolicy::STARTUP.run_until_stopped(&context.shutdown, attempt, |_| true).await?.ok()?;
    for finding in check.findings.iter().filter(|finding| finding.remedy.is_some()) {
        // The log says what could not be repaired; the rest goes on.
        let _ = apply(context, finding).await;
    }
    let mut pending: Vec<_> = check.rows.into_iter().filter(|row| row.state() == State::Pending).collect();
    pending.sort_by_key(requested_at);
    let mut requests = Vec::new();
    for row in pending {
        tracing::info!(id = row.id, handle = row.handle, "resuming");
        let is_quantized = quantization::scheme(row.requested_quantization()).is_some();
        if row.source() == Source::Local && !is_quantized {
            if let Err(error) = local::register(context, &row).await {
                let _ = context.catalog.fail_with_retry(&context.shutdown, row.id, &error).await;
            }
        } else {
            // The request ended with its process, and its token with it.
            let plan = DownloadPlan::load(&context.models_dir.incoming(row.id), &row.commit);
            let bytes = plan.map_or(0, |plan| plan.download_bytes());
            requests.push(JobRequest { row, token: context.token.clone(), keep_source: false, bytes });
        }
    }
    Some(requests)
}

/// Waits for the Catalog, binds the models folder to it, and makes the first check.
async fn first_check(context: &Context) -> Result<Check, ServiceError> {
    let listing = context.catalog.list_with_retry(&context.shutdown).await;
    let listing = listing.unwrap_or_else(|| Err(ServiceError::service_unavailable("catalog")))?;
    context.models_dir.bind_catalog(&listing.catalog_id);
    check(context).await
}

/// Returns the time when the row became PENDING. A retried row was created earlier than that.
fn requested_at(row: &Model) -> (Option<(i64, i32)>, i64) {
    let time = row.update_time.or(row.create_time);
    (time.map(|time| (time.seconds, time.nanos)), row.id)
}
