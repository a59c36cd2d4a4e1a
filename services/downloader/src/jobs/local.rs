//! A person's own model: checked where it lies, never copied, moved or changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use millm_kit::{ServiceError, quantization::name as name_of};
use millm_model::{Checkpoint, requires_custom_code, validate_local_path};
use millm_proto::{
    catalog::v1::{Model, Quantization, model},
    downloader::v1::{Download, download},
};

use super::catalog_row::row_from_files;
use crate::{
    context::Context,
    error::{from_disk, from_model},
    progress::queued_snapshot,
    resolve::{
        inspect::expected_tensors,
        plan::{check_room, peak_bytes, quantized_bytes},
    },
};

/// The fields of a row that [`register`] writes.
const LOCAL_READY_FIELDS: &[&str] = &[
    "state",
    "error",
    "storage_path",
    "actual_quantization",
    "architecture",
    "parameter_count",
    "disk_size_bytes",
    "memory_estimate_bytes",
    "config_json",
    "has_chat_template",
];

/// Checks the model at `path`, and the room for its quantized copy. Returns the path with its links resolved.
///
/// # Errors
///
/// INVALID_LOCAL_PATH, INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, REMOTE_CODE_REQUIRED, INSUFFICIENT_DISK.
pub(crate) async fn check(
    context: &Arc<Context>,
    path: String,
    requested: Quantization,
    trust_remote_code: bool,
) -> Result<String, ServiceError> {
    let context = Arc::clone(context);
    let checked = tokio::task::spawn_blocking(move || {
        let failed = |error| from_model(&path, error);
        let real = validate_local_path(Path::new(&path)).map_err(failed)?;
        if real.starts_with(context.models_dir.root()) {
            return Err(ServiceError::invalid_local_path("it is inside the models folder"));
        }
        let text =
            real.to_str().ok_or_else(|| ServiceError::invalid_local_path("it is not UTF-8"))?.to_owned();
        let checkpoint = Checkpoint::open(&real).map_err(failed)?;
        let is_custom = checkpoint.config_json().is_some_and(requires_custom_code);
        if is_custom && !trust_remote_code {
            return Err(ServiceError::remote_code_required(&path, &checkpoint.spec().architecture));
        }
        let quantized = quantized_bytes(requested, &expected_tensors(checkpoint.spec()), checkpoint.spec());
        if quantized.is_some() {
            check_room(peak_bytes(0, quantized), 0, context.available_bytes()?)?;
        }
        Ok(text)
    });
    checked.await.map_err(ServiceError::internal)?
}

/// Checks the model of `row`, links it into the models folder, and sets the row to READY.
///
/// # Errors
///
/// INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, SERVICE_UNAVAILABLE, INTERNAL.
pub(crate) async fn register(context: &Context, row: &Model) -> Result<Download, ServiceError> {
    let (models_dir, workload) = (context.models_dir.clone(), context.workload);
    let (path, handle, id) = (PathBuf::from(&row.local_path), row.handle.clone(), row.id);
    let linked = tokio::task::spawn_blocking(move || {
        let mut ready = row_from_files(&path, &handle, workload)?;
        ready.disk_size_bytes = bytes_of(&path) as i64;
        models_dir
            .link_local(&handle, id, &path)
            .map_err(|error| from_disk(&handle, "linking the model", &error))?;
        Ok::<_, ServiceError>(ready)
    });
    let mut ready = linked.await.map_err(ServiceError::internal)??;
    ready.name = format!("models/{id}");
    ready.storage_path.clone_from(&row.local_path);
    ready.set_state(model::State::Ready);
    ready.set_actual_quantization(Quantization::Native);
    let size = ready.disk_size_bytes;
    context
        .catalog
        .update_with_retry(&context.shutdown, &ready, LOCAL_READY_FIELDS)
        .await
        .unwrap_or_else(|| Err(ServiceError::service_unavailable("catalog")))?;
    tracing::info!(
        id,
        handle = row.handle,
        quantization = name_of(row.requested_quantization()),
        "local model ready"
    );
    let mut download = queued_snapshot(row);
    download.set_state(download::State::Succeeded);
    download.fraction = 1.0;
    (download.downloaded_bytes, download.total_bytes) = (size, size);
    download.end_time = Some(SystemTime::now().into());
    Ok(download)
}

/// Returns the bytes of a file, or of the files directly in a folder.
fn bytes_of(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::metadata(path) else { return 0 };
    if metadata.is_file() {
        return metadata.len();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let files =
        entries.filter_map(|entry| std::fs::metadata(entry.path()).ok()).filter(std::fs::Metadata::is_file);
    files.map(|metadata| metadata.len()).sum()
}
