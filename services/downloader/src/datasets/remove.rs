//! RemoveDataset: stops a dataset's job, and removes its row and the files that came from the hub. A person's own files
//! stay.
//!
//! The row goes first. After a crash in between, the next start removes the folder without a row.

use std::sync::Arc;

use millm_kit::ServiceError;
use millm_proto::catalog::v1::Source;

use crate::{context::Context, error::from_disk, store::datasets_dir::DatasetsDir};

/// Removes a dataset.
///
/// # Errors
///
/// DATASET_NOT_FOUND, SERVICE_UNAVAILABLE, INTERNAL.
pub(crate) async fn remove(context: Arc<Context>, name: String) -> Result<(), ServiceError> {
    let row = context.datasets.get(&name).await?;
    // No job can begin for the row until it is gone.
    let _adding = context.dataset_jobs.adding.lock().await;
    context.dataset_jobs.stop(row.id).await;
    context.datasets.delete(row.id).await?;
    if row.source() != Source::Local {
        let folder = DatasetsDir::new(&context.models_dir).folder(row.id);
        let removed = tokio::task::spawn_blocking(move || folder.remove()).await;
        let removed = removed.map_err(ServiceError::internal)?;
        removed.map_err(|error| from_disk(&row.handle, "removing a dataset", &error))?;
    }
    tracing::info!(id = row.id, handle = row.handle, "dataset removed");
    Ok(())
}
