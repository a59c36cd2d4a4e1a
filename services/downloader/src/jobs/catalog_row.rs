//! The row of a model, made from its files: architecture, size, memory estimate, and what a finished download adds.

use std::path::Path;

use millm_kit::ServiceError;
use millm_model::{
    Checkpoint, ModelSpec,
    memory::{self, Workload},
};
use millm_proto::catalog::v1::{Architecture, Model, model};

use crate::{context::Context, error::from_model, store::manifest::Manifest};

/// The fields of a row that a finished download writes.
pub(crate) const READY_FIELDS: &[&str] = &[
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

/// Returns the READY row of a finished folder. The model is opened and checked once more.
///
/// # Errors
///
/// INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, INTERNAL when the folder is not complete.
pub(crate) async fn ready_row(context: &Context, row: &Model, folder: &Path) -> Result<Model, ServiceError> {
    let (path, name, workload) = (folder.to_owned(), row.handle.clone(), context.workload);
    let read = tokio::task::spawn_blocking(move || row_from_files(&path, &name, workload)).await;
    let mut ready = read.map_err(ServiceError::internal)??;
    let manifest = Manifest::read_complete(folder).ok_or_else(|| {
        ServiceError::internal("a finished folder without its manifest, or without a file of it")
    })?;
    manifest.fill_row(&mut ready);
    ready.name = format!("models/{}", row.id);
    ready.commit.clone_from(&row.commit);
    ready.storage_path = folder.display().to_string();
    ready.set_state(model::State::Ready);
    Ok(ready)
}

/// Opens and checks the model at `path`, and returns a row with all that its files tell. Blocks. `name` is for errors.
///
/// # Errors
///
/// INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, INTERNAL.
pub(crate) fn row_from_files(path: &Path, name: &str, workload: Workload) -> Result<Model, ServiceError> {
    let checkpoint = Checkpoint::open(path).map_err(|error| from_model(name, error))?;
    let spec = checkpoint.spec();
    let held = memory::loaded_bytes(checkpoint.tensors());
    Ok(Model {
        architecture: Some(architecture(spec)),
        parameter_count: checkpoint.parameter_count() as i64,
        memory_estimate_bytes: memory::estimate(spec, held, &workload).total() as i64,
        config_json: checkpoint.config_json().unwrap_or_default().to_owned(),
        has_chat_template: checkpoint.has_chat_template(),
        ..Model::default()
    })
}

/// Returns the dimensions of a model as the contract has them.
pub(crate) fn architecture(spec: &ModelSpec) -> Architecture {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Architecture {
        name: spec.architecture.clone(),
        family: spec.family.name.to_owned(),
        layers: number(spec.layers),
        hidden_size: number(spec.hidden_size),
        heads: number(spec.heads),
        kv_heads: number(spec.kv_heads),
        head_dim: number(spec.head_dim),
        intermediate_size: number(spec.intermediate_size),
        vocabulary_size: number(spec.vocabulary_size),
        context_length: number(spec.context_length),
    }
}
