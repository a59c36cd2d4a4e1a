//! The report of `millm doctor`: the findings of a check as the contract has them, and what was repaired.

use std::path::Path;

use millm_kit::{ServiceError, format};
use millm_proto::downloader::v1::{StorageFinding, StorageReport, storage_finding::Kind};

use super::{
    apply::apply,
    check::check,
    compare::{Finding, Remedy},
    scan::Scan,
};
use crate::{
    context::Context,
    store::{disk_space::file_system, hf_cache::HfCache},
};

/// Checks Catalog and models folder. With `fix`, findings that have a remedy are repaired.
///
/// # Errors
///
/// SERVICE_UNAVAILABLE when the Catalog does not answer, INTERNAL when the folder cannot be read.
pub(crate) async fn report(context: &Context, fix: bool) -> Result<StorageReport, ServiceError> {
    let check = check(context).await?;
    let mut report = summary(context, &check.scan).await?;
    for found in &check.findings {
        let done = match &found.remedy {
            Some(_) if fix => Some(apply(context, found).await),
            _ => None,
        };
        report.findings.push(finding(found, done));
    }
    report.findings.sort_by_key(|finding| !finding.problem);
    report.reclaimable_bytes = check.findings.iter().map(reclaimable_bytes).sum::<u64>() as i64;
    Ok(report)
}

/// Returns the report without its findings.
async fn summary(context: &Context, scan: &Scan) -> Result<StorageReport, ServiceError> {
    let root = context.models_dir.root().to_owned();
    let write = {
        let root = root.clone();
        tokio::task::spawn_blocking(move || tempfile::tempfile_in(root.join("huggingface"))).await
    };
    let write = write.map_err(ServiceError::internal)?;
    let hf_cache = context.hf_cache.as_ref().map(HfCache::root).filter(|root| root.is_dir());
    Ok(StorageReport {
        path: display(&root),
        write_error: write.err().map(|error| error.to_string()).unwrap_or_default(),
        free_bytes: context.available_bytes()? as i64,
        file_system: file_system(&root).unwrap_or_default(),
        models_bytes: scan.folders.iter().map(|folder| folder.size.bytes).sum::<u64>() as i64,
        partial_bytes: scan.incoming.iter().map(|incoming| incoming.size.bytes).sum::<u64>() as i64,
        hub_cache: hf_cache.map(display).unwrap_or_default(),
        ..StorageReport::default()
    })
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

/// Converts a finding. `done` is the result of its remedy, where one was applied.
fn finding(found: &Finding, done: Option<Result<(), ServiceError>>) -> StorageFinding {
    let mut finding = StorageFinding {
        path: display(&found.path),
        model_id: found.row.as_ref().map_or(0, |row| row.id),
        handle: found.row.as_ref().map(|row| row.handle.clone()).unwrap_or_default(),
        bytes: found.size.map_or(0, |size| size.bytes) as i64,
        change_time: found.size.map(|size| size.changed.into()),
        problem: is_problem(found.kind),
        remedy: remedy(found),
        fixed: matches!(done, Some(Ok(()))),
        error: done.and_then(Result::err).map(|error| error.message).unwrap_or_default(),
        ..StorageFinding::default()
    };
    finding.set_kind(found.kind);
    finding
}

const fn is_problem(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::FolderOfAnother
            | Kind::FolderUnknown
            | Kind::PartialKept
            | Kind::PartialOfAnother
            | Kind::Unspecified
    )
}

/// Returns the remedy as people read it; empty without one.
fn remedy(found: &Finding) -> String {
    let text = match &found.remedy {
        None => "",
        Some(Remedy::UseFolder { .. }) => "make the model ready with these files",
        Some(Remedy::MarkFailed) => "mark the model as failed, so that it can be downloaded again",
        Some(Remedy::FinishRemoval) => "finish the removal",
        Some(Remedy::RemoveLink) => "remove the link",
        Some(Remedy::RemoveFolder | Remedy::RemoveIncoming) => {
            return format!("remove it ({})", format::bytes(reclaimable_bytes(found)));
        }
    };
    text.to_owned()
}

/// Returns the bytes that the remedy frees.
fn reclaimable_bytes(found: &Finding) -> u64 {
    match found.remedy {
        Some(Remedy::RemoveFolder | Remedy::RemoveIncoming) => found.size.map_or(0, |size| size.own_bytes),
        _ => 0,
    }
}
