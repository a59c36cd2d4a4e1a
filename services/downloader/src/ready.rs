//! The row of a model that is there: what READY says of it, read from its finished folder.

use std::path::Path;

use millm_kit::ServiceError;
use millm_proto::catalog::v1::{Model, model};

use crate::{context::Context, describe::describe, meta::Meta};

/// The fields that a finished download writes.
pub const READY_FIELDS: &[&str] = &[
    "state",
    "error",
    "commit",
    "storage_path",
    "actual_quantization",
    "quantization_reason",
    "architecture",
    "parameter_count",
    "disk_size_bytes",
    "memory_estimate_bytes",
    "config_json",
    "files",
    "has_chat_template",
];

/// Opens and validates it once more.
pub async fn ready_row(context: &Context, row: &Model, folder: &Path) -> Result<Model, ServiceError> {
    let (path, name, workload) = (folder.to_owned(), row.handle.clone(), context.workload);
    let described = tokio::task::spawn_blocking(move || describe(&path, &name, workload)).await;
    let mut ready = described.map_err(ServiceError::internal)??;
    let meta = Meta::of(folder).ok_or_else(|| {
        ServiceError::internal("a finished folder without its meta file, or without a file of it")
    })?;
    meta.fill(&mut ready);
    ready.name = format!("models/{}", row.id);
    ready.commit.clone_from(&row.commit);
    ready.storage_path = folder.display().to_string();
    ready.set_state(model::State::Ready);
    Ok(ready)
}
