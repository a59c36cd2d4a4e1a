//! The remedies: each makes Catalog and models folder agree about one finding. The server runs meanwhile, so a download's
//! folder is locked and its row read again before it is removed.

use std::io;

use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::{Model, model::State};

use super::{
    compare::{Finding, Remedy},
    remove_files::remove_files,
};
use crate::{
    context::Context,
    error::from_disk,
    jobs::catalog_row::{READY_FIELDS, ready_row},
    store::{atomic_file::ignore_not_found, file_lock::FileLock},
};

/// Applies the remedy of a finding, and logs the result.
///
/// # Errors
///
/// CONFLICT when the model is being downloaded, SERVICE_UNAVAILABLE, INTERNAL.
pub(crate) async fn apply(context: &Context, finding: &Finding) -> Result<(), ServiceError> {
    let done = try_apply(context, finding).await;
    let (path, kind) = (finding.path.display(), finding.kind.as_str_name().trim_start_matches("KIND_"));
    let id = finding.row.as_ref().map(|row| row.id);
    match &done {
        Ok(()) => tracing::info!(id, %path, kind, remedy = ?finding.remedy, "repaired"),
        Err(error) => tracing::warn!(id, %path, kind, error = error.message, "could not be repaired"),
    }
    done
}

async fn try_apply(context: &Context, finding: &Finding) -> Result<(), ServiceError> {
    let Some(remedy) = &finding.remedy else { return Ok(()) };
    match (remedy, &finding.row) {
        (Remedy::UseFolder { folder }, Some(row)) => {
            let ready = ready_row(context, row, folder).await?;
            context.catalog.update(ready, READY_FIELDS).await.map(drop)
        }
        (Remedy::MarkFailed, Some(row)) => {
            let why = ServiceError::invalid_model_file(
                finding.path.display(),
                "is missing or incomplete; download it again",
            );
            let mut failed =
                Model { name: row.name.clone(), id: row.id, error: Some(why.to_rpc()), ..Model::default() };
            failed.set_state(State::Error);
            context.catalog.update(failed, &["state", "error"]).await.map(drop)
        }
        (Remedy::FinishRemoval, Some(row)) => {
            remove_files(context, row).await?;
            context.catalog.delete(row.id).await
        }
        (Remedy::RemoveIncoming, Some(row)) => {
            let name = context.models_dir.final_folder(row)?;
            let lock = context.models_dir.lock(&name.file_name().unwrap_or_default().to_string_lossy());
            let lock = FileLock::try_acquire(&lock)
                .map_err(|error| from_disk(&row.handle, "locking the model", &error))?;
            let is_retried = match context.catalog.get(&row.name).await {
                Ok(row) => row.state() == State::Pending,
                Err(error) if error.reason == Reason::ModelNotFound => false,
                Err(error) => return Err(error),
            };
            if lock.is_none() || is_retried {
                return Err(ServiceError::conflict(&row.handle));
            }
            remove(context, finding).await
        }
        (Remedy::RemoveFolder | Remedy::RemoveIncoming | Remedy::RemoveLink, _) => {
            remove(context, finding).await
        }
        (Remedy::UseFolder { .. } | Remedy::MarkFailed | Remedy::FinishRemoval, None) => {
            Err(ServiceError::internal("a remedy for a row without one"))
        }
    }
}

/// Removes a folder or a link.
async fn remove(context: &Context, finding: &Finding) -> Result<(), ServiceError> {
    let (models_dir, path, remedy) =
        (context.models_dir.clone(), finding.path.clone(), finding.remedy.clone());
    let work = move || -> io::Result<()> {
        match remedy {
            Some(Remedy::RemoveLink) => ignore_not_found(std::fs::remove_file(path)),
            Some(Remedy::RemoveIncoming) => ignore_not_found(std::fs::remove_dir_all(path)),
            _ => models_dir.remove_finished(&path),
        }
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(ServiceError::internal)?;
    done.map_err(|error| from_disk("models folder", "removing unused files", &error))
}
