//! The sweep: every few hours the old bytes of failed downloads are removed, as the next start would do.

use std::{sync::Arc, time::Duration};

use millm_proto::downloader::v1::storage_finding::Kind;
use tokio::time::Instant;

use super::{apply::apply, check::check};
use crate::{context::Context, jobs::queue::Queue};

const SWEEP_INTERVAL: Duration = Duration::from_hours(6);

/// Sweeps until the process stops.
pub(crate) async fn run(context: Arc<Context>, queue: Queue) {
    let mut ticks = tokio::time::interval_at(Instant::now() + SWEEP_INTERVAL, SWEEP_INTERVAL);
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if queue.wait_ready().await.is_err() {
            continue;
        }
        match check(&context).await {
            Ok(found) => {
                for finding in found.findings.iter().filter(|finding| finding.kind == Kind::PartialOld) {
                    // The log says what could not be removed.
                    let _ = apply(&context, finding).await;
                }
            }
            Err(error) => tracing::warn!(error = error.message, "the models folder could not be checked"),
        }
    }
}
