//! Makes catalogue and disk agree, one finding at a time. Looks again before it removes: the server goes on meanwhile.

use std::io;

use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::{Model, model::State};

use super::compare::{Finding, Remedy};
use crate::{
    cache::absent_is_fine,
    context::Context,
    error::of_disk,
    lock::Lock,
    meta::final_folder,
    ready::{READY_FIELDS, ready_row},
    remove::remove_files,
};

/// With what was done in the log.
pub async fn logged(context: &Context, finding: &Finding) -> Result<(), ServiceError> {
    let done = mend(context, finding).await;
    let (path, kind) = (finding.path.display(), finding.kind.as_str_name().trim_start_matches("KIND_"));
    let id = finding.row.as_ref().map(|row| row.id);
    match &done {
        Ok(()) => tracing::info!(id, %path, kind, remedy = ?finding.remedy, "mended"),
        Err(error) => tracing::warn!(id, %path, kind, error = error.message, "could not be mended"),
    }
    done
}

async fn mend(context: &Context, finding: &Finding) -> Result<(), ServiceError> {
    let Some(remedy) = &finding.remedy else { return Ok(()) };
    match (remedy, &finding.row) {
        (Remedy::Find { folder }, Some(row)) => {
            let ready = ready_row(context, row, folder).await?;
            context.registry.update(ready, READY_FIELDS).await.map(drop)
        }
        (Remedy::Fail, Some(row)) => {
            let why = ServiceError::invalid_model_file(
                finding.path.display(),
                "is missing or not whole; get it again",
            );
            let mut failed =
                Model { name: row.name.clone(), id: row.id, error: Some(why.to_rpc()), ..Model::default() };
            failed.set_state(State::Error);
            context.registry.update(failed, &["state", "error"]).await.map(drop)
        }
        (Remedy::FinishRemoval, Some(row)) => {
            remove_files(context, row).await?;
            context.registry.delete(row.id).await
        }
        (Remedy::RemoveIncoming, Some(row)) => {
            let name = final_folder(&context.cache, row)?;
            let lock = context.cache.lock(&name.file_name().unwrap_or_default().to_string_lossy());
            let lock =
                Lock::try_take(&lock).map_err(|error| of_disk(&row.handle, "locking the model", &error))?;
            let asked_for_again = match context.registry.get(&row.name).await {
                Ok(row) => row.state() == State::Pending,
                Err(error) if error.reason == Reason::ModelNotFound => false,
                Err(error) => return Err(error),
            };
            if lock.is_none() || asked_for_again {
                return Err(ServiceError::conflict(&row.handle));
            }
            removed(context, finding).await
        }
        (Remedy::RemoveFolder | Remedy::RemoveIncoming | Remedy::RemoveLink, _) => {
            removed(context, finding).await
        }
        (Remedy::Find { .. } | Remedy::Fail | Remedy::FinishRemoval, None) => {
            Err(ServiceError::internal("a remedy for a row without one"))
        }
    }
}

async fn removed(context: &Context, finding: &Finding) -> Result<(), ServiceError> {
    let (cache, path, remedy) = (context.cache.clone(), finding.path.clone(), finding.remedy.clone());
    let work = move || -> io::Result<()> {
        match remedy {
            Some(Remedy::RemoveLink) => absent_is_fine(std::fs::remove_file(path)),
            Some(Remedy::RemoveIncoming) => absent_is_fine(std::fs::remove_dir_all(path)),
            _ => cache.remove_finished(&path),
        }
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(ServiceError::internal)?;
    done.map_err(|error| of_disk("models folder", "removing what nobody needs", &error))
}
