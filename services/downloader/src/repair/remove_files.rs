//! The removal of a model's files, for RemoveModel and for removals that a crash interrupted.

use std::path::PathBuf;

use millm_kit::ServiceError;
use millm_proto::catalog::v1::Model;

use crate::{context::Context, error::from_disk};

/// Removes a model's folders and its link. A person's own files stay: of them the models folder holds only a link.
///
/// # Errors
///
/// INTERNAL when a file cannot be removed.
pub(crate) async fn remove_files(context: &Context, row: &Model) -> Result<(), ServiceError> {
    let (models_dir, id, folder) = (context.models_dir.clone(), row.id, PathBuf::from(&row.storage_path));
    let removed = tokio::task::spawn_blocking(move || {
        models_dir.incoming(id).remove()?;
        models_dir.unlink_local(id)?;
        models_dir.remove_finished(&folder)
    });
    let removed = removed.await.map_err(ServiceError::internal)?;
    removed.map_err(|error| from_disk(&row.handle, "removing files", &error))
}
