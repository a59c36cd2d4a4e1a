//! Removing a model: its download, its files, its row, in an order that a crash cannot spoil.

use std::{path::PathBuf, sync::Arc};

use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::{Model, model::State},
    downloader::v1::download,
};

use crate::{context::Context, error::of_disk, queue::Queue};

/// Cancels what is under way; otherwise removes a model that nobody uses.
///
/// Errors: MODEL_NOT_FOUND, MODEL_IN_USE, SERVICE_UNAVAILABLE when it is not known whether it is in use.
pub async fn remove(context: Arc<Context>, queue: Queue, name: String) -> Result<(), ServiceError> {
    let row = context.registry.get(&name).await?;
    if let Some(ended) = queue.cancel(row.id).await?
        && ended.state() == download::State::Cancelled
    {
        return queue.forget(row.id).await;
    }
    // It may have become READY while it was to be cancelled: what is there now counts.
    let row = context.registry.get(&row.name).await?;
    refuse_if_loaded(&context, &row).await?;
    context.registry.mark_deleting(row.id).await?;
    // A load that began in between saw a READY row; from here on none can begin.
    if let Err(error) = refuse_if_loaded(&context, &row).await {
        let mut back =
            Model { name: row.name.clone(), id: row.id, error: row.error.clone(), ..Model::default() };
        back.set_state(row.state());
        context.registry.update(back, &["state", "error"]).await?;
        return Err(error);
    }
    remove_files(&context, &row).await?;
    context.registry.delete(row.id).await?;
    tracing::info!(id = row.id, handle = row.handle, "model removed");
    queue.forget(row.id).await
}

async fn refuse_if_loaded(context: &Context, row: &Model) -> Result<(), ServiceError> {
    // Only READY models are ever loaded, so the others need no Runtime to be asked.
    if row.state() == State::Ready && context.is_loaded(row.id).await? {
        return Err(ServiceError::in_use(&row.handle));
    }
    Ok(())
}

/// Everything of ours on disk. A person's own files and folders stay: of them there is only a link.
pub async fn remove_files(context: &Context, row: &Model) -> Result<(), ServiceError> {
    let (cache, id, folder) = (context.cache.clone(), row.id, PathBuf::from(&row.storage_path));
    let removed = tokio::task::spawn_blocking(move || {
        cache.incoming(id).remove()?;
        cache.unlink_local(id)?;
        cache.remove_finished(&folder)
    });
    let removed = removed.await.map_err(ServiceError::internal)?;
    removed.map_err(|error| of_disk(&row.handle, "removing files", &error))
}
