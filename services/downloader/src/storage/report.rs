//! What was found, as the contract and people read it.

use std::path::Path;

use millm_kit::{ServiceError, format};
use millm_proto::downloader::v1::{StorageFinding, StorageReport, storage_finding::Kind};

use super::{
    compare::{Finding, Remedy},
    disk::Disk,
};
use crate::{context::Context, disk::file_system, hub_cache::HubCache};

/// All but the findings.
pub async fn begin(context: &Context, disk: &Disk) -> Result<StorageReport, ServiceError> {
    let root = context.cache.root().to_owned();
    let write = {
        let root = root.clone();
        tokio::task::spawn_blocking(move || tempfile::tempfile_in(root.join("huggingface"))).await
    };
    let write = write.map_err(ServiceError::internal)?;
    let hub_cache = context.hub_cache.as_ref().map(HubCache::root).filter(|root| root.is_dir());
    Ok(StorageReport {
        path: shown(&root),
        write_error: write.err().map(|error| error.to_string()).unwrap_or_default(),
        free_bytes: context.available_bytes()? as i64,
        file_system: file_system(&root).unwrap_or_default(),
        models_bytes: disk.folders.iter().map(|folder| folder.size.bytes).sum::<u64>() as i64,
        partial_bytes: disk.incoming.iter().map(|arriving| arriving.size.bytes).sum::<u64>() as i64,
        hub_cache: hub_cache.map(shown).unwrap_or_default(),
        ..StorageReport::default()
    })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// `done`: how mending it ended, where that was tried.
pub fn finding(found: &Finding, done: Option<Result<(), ServiceError>>) -> StorageFinding {
    let mut finding = StorageFinding {
        path: shown(&found.path),
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

fn remedy(found: &Finding) -> String {
    let text = match &found.remedy {
        None => "",
        Some(Remedy::Find { .. }) => "make the model ready with these files",
        Some(Remedy::Fail) => "mark the model as failed, so that it can be fetched again",
        Some(Remedy::FinishRemoval) => "finish the removal",
        Some(Remedy::RemoveLink) => "remove the link",
        Some(Remedy::RemoveFolder | Remedy::RemoveIncoming) => {
            return format!("remove it ({})", format::bytes(reclaimable(found)));
        }
    };
    text.to_owned()
}

/// Bytes that mending it gives back.
pub fn reclaimable(found: &Finding) -> u64 {
    match found.remedy {
        Some(Remedy::RemoveFolder | Remedy::RemoveIncoming) => found.size.map_or(0, |size| size.own_bytes),
        _ => 0,
    }
}
