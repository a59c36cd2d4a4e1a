//! The catalogue and the models folder, compared and made to agree: at the start, when somebody asks (`millm doctor`),
//! and every few hours for what failed downloads have left.
//!
//! Only what our own meta files and folder names say is this catalogue's is ever removed.

mod compare;
mod disk;
mod mend;
mod report;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::Model,
    downloader::v1::{StorageReport, storage_finding::Kind},
};

use crate::{context::Context, error::of_disk, queue::Queue};
use compare::{Finding, compare};
use disk::Disk;

/// Between two looks for bytes that nobody wants any more.
const SWEEP_PAUSE: Duration = Duration::from_hours(6);

/// What was found, and the rows that it was compared with.
#[derive(Debug)]
pub struct Check {
    findings: Vec<Finding>,
    disk: Disk,
    pub rows: Vec<Model>,
}

/// Changes nothing.
pub async fn check(context: &Context) -> Result<Check, ServiceError> {
    let cache = context.cache.clone();
    let disk = tokio::task::spawn_blocking(move || Disk::read(&cache)).await;
    let disk = disk
        .map_err(ServiceError::internal)?
        .map_err(|error| of_disk("models folder", "reading it", &error))?;
    let rows = context.registry.list("").await?;
    let findings = compare(&disk, &rows, context.cache.catalog(), SystemTime::now());
    Ok(Check { findings, disk, rows })
}

impl Check {
    /// Mends what can be mended, and logs it; the rest is for people to see.
    pub async fn mend_all(&self, context: &Context) {
        for finding in &self.findings {
            if finding.remedy.is_some() {
                // The log says what could not be mended; the rest goes on.
                let _ = mend::logged(context, finding).await;
            }
        }
    }
}

/// For `millm doctor`.
pub async fn report(context: &Context, fix: bool) -> Result<StorageReport, ServiceError> {
    let check = check(context).await?;
    let mut report = report::begin(context, &check.disk).await?;
    for finding in &check.findings {
        let done = match &finding.remedy {
            Some(_) if fix => Some(mend::logged(context, finding).await),
            _ => None,
        };
        report.findings.push(report::finding(finding, done));
    }
    report.findings.sort_by_key(|finding| !finding.problem);
    report.reclaimable_bytes = check.findings.iter().map(report::reclaimable).sum::<u64>() as i64;
    Ok(report)
}

/// Gives back, while the server runs, what the next start would.
pub async fn sweep(context: Arc<Context>, queue: Queue) {
    let mut pauses = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP_PAUSE, SWEEP_PAUSE);
    loop {
        tokio::select! {
            () = context.stopping.cancelled() => return,
            _ = pauses.tick() => {}
        }
        if queue.wait_ready().await.is_err() {
            continue;
        }
        match check(&context).await {
            Ok(found) => {
                for finding in found.findings.iter().filter(|finding| finding.kind == Kind::PartialOld) {
                    let _ = mend::logged(&context, finding).await;
                }
            }
            Err(error) => {
                tracing::warn!(error = error.message, "the models folder could not be looked through");
            }
        }
    }
}

#[cfg(test)]
mod tests;
