//! RemoveModel: removes a model's download, files and row. The row says DELETING before a file goes, so that a crash at
//! any point is completed at the next start.

use std::sync::Arc;

use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::{Model, model::State},
    downloader::v1::download,
};

use crate::{context::Context, jobs::queue::Queue, repair::remove_files::remove_files};

/// Cancels the download of a model, or removes a model that is not loaded.
///
/// # Errors
///
/// MODEL_NOT_FOUND; MODEL_IN_USE; SERVICE_UNAVAILABLE when the Catalog or the Runtime does not answer.
pub(super) async fn remove(context: Arc<Context>, queue: Queue, name: String) -> Result<(), ServiceError> {
    let row = context.catalog.get(&name).await?;
    if let Some(ended) = queue.cancel(row.id).await?
        && ended.state() == download::State::Cancelled
    {
        return queue.forget(row.id).await;
    }
    // The download may have completed before the cancel, so the row is read again.
    let row = context.catalog.get(&row.name).await?;
    refuse_if_loaded(&context, &row).await?;
    context.catalog.mark_deleting(row.id).await?;
    // A load may have begun before the row said DELETING. None can begin now.
    if let Err(error) = refuse_if_loaded(&context, &row).await {
        let mut back =
            Model { name: row.name.clone(), id: row.id, error: row.error.clone(), ..Model::default() };
        back.set_state(row.state());
        context.catalog.update(back, &["state", "error"]).await?;
        return Err(error);
    }
    remove_files(&context, &row).await?;
    context.catalog.delete(row.id).await?;
    tracing::info!(id = row.id, handle = row.handle, "model removed");
    queue.forget(row.id).await
}

async fn refuse_if_loaded(context: &Context, row: &Model) -> Result<(), ServiceError> {
    // Only READY models are loaded, so the Runtime is not asked about others.
    if row.state() == State::Ready && context.is_loaded(row.id).await? {
        return Err(ServiceError::in_use(&row.handle));
    }
    Ok(())
}
