//! A person's own models: looked at where they are, never copied, moved or changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use millm_kit::{ServiceError, view::quantization as name_of};
use millm_model::validate_local_path;
use millm_proto::{
    catalog::v1::{Model, Quantization, Source, model},
    downloader::v1::{Download, StartDownloadRequest, download},
};

use crate::{
    context::Context,
    describe::describe,
    error::{of_disk, of_model},
    plan::{check_room, made_bytes, peak_bytes},
    quantization,
    queue::{Order, Queue, first_snapshot},
    survey::expected_tensors,
};

const READY_FIELDS: &[&str] = &[
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

/// Registers it at once, or queues its quantization.
///
/// Errors: INVALID_LOCAL_PATH, INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, REMOTE_CODE_REQUIRED,
/// MODEL_ALREADY_EXISTS, INSUFFICIENT_DISK.
pub async fn start(
    context: Arc<Context>,
    queue: Queue,
    path: String,
    request: StartDownloadRequest,
) -> Result<Download, ServiceError> {
    let asked = quantization::asked(request.quantization, Quantization::Native)?;
    let real = look_at(&context, path, asked, request.trust_remote_code).await?;
    queue.wait_ready().await?;
    let mut row = Model {
        handle: request.handle,
        local_path: real,
        trust_remote_code: request.trust_remote_code,
        ..Model::default()
    };
    row.set_source(Source::Local);
    row.set_requested_quantization(asked);
    let work = {
        let (context, queue) = (Arc::clone(&context), queue);
        async move {
            let row = crate::start::create_or_retry(&context, row).await?;
            if quantization::scheme(asked).is_some() {
                let order = Order { row, token: None, keep_source: false, bytes: 0 };
                return Ok(queue.submit(order).await?.borrow().clone());
            }
            match register(&context, &row).await {
                Ok(download) => {
                    queue.record(download.clone()).await?;
                    Ok(download)
                }
                Err(error) => {
                    // It was looked at before: what fails now is rare, and must not stay PENDING.
                    let _ = context.registry.fail_when_back(&context.stopping, row.id, &error).await;
                    Err(error)
                }
            }
        }
    };
    context.to_its_end(work).await
}

/// The path with its links resolved, if a usable model is there and there is room for what is to be made of it.
async fn look_at(
    context: &Arc<Context>,
    path: String,
    asked: Quantization,
    trust_remote_code: bool,
) -> Result<String, ServiceError> {
    let context = Arc::clone(context);
    let looked = tokio::task::spawn_blocking(move || {
        let failed = |error| of_model(&path, error);
        let real = validate_local_path(Path::new(&path)).map_err(failed)?;
        if real.starts_with(context.cache.root()) {
            return Err(ServiceError::invalid_local_path("it is inside the models folder"));
        }
        let text =
            real.to_str().ok_or_else(|| ServiceError::invalid_local_path("it is not UTF-8"))?.to_owned();
        let checkpoint = millm_model::Checkpoint::open(&real).map_err(failed)?;
        let custom = checkpoint.config_json().is_some_and(millm_model::requires_custom_code);
        if custom && !trust_remote_code {
            return Err(ServiceError::remote_code_required(&path, &checkpoint.spec().architecture));
        }
        let made = made_bytes(asked, &expected_tensors(checkpoint.spec()), checkpoint.spec());
        if made.is_some() {
            check_room(peak_bytes(0, made), 0, context.available_bytes()?)?;
        }
        Ok(text)
    });
    looked.await.map_err(ServiceError::internal)?
}

/// Validates, links, and makes the row READY.
pub async fn register(context: &Context, row: &Model) -> Result<Download, ServiceError> {
    let (cache, workload) = (context.cache.clone(), context.workload);
    let (path, handle, id) = (PathBuf::from(&row.local_path), row.handle.clone(), row.id);
    let looked = tokio::task::spawn_blocking(move || {
        let mut ready = describe(&path, &handle, workload)?;
        ready.disk_size_bytes = bytes_of(&path) as i64;
        cache
            .link_local(&handle, id, &path)
            .map_err(|error| of_disk(&handle, "linking the model", &error))?;
        Ok::<_, ServiceError>(ready)
    });
    let mut ready = looked.await.map_err(ServiceError::internal)??;
    ready.name = format!("models/{id}");
    ready.storage_path.clone_from(&row.local_path);
    ready.set_state(model::State::Ready);
    ready.set_actual_quantization(Quantization::Native);
    let size = ready.disk_size_bytes;
    context
        .registry
        .update_when_back(&context.stopping, &ready, READY_FIELDS)
        .await
        .unwrap_or_else(|| Err(ServiceError::service_unavailable("catalog")))?;
    tracing::info!(
        id,
        handle = row.handle,
        quantization = name_of(row.requested_quantization()),
        "local model ready"
    );
    let mut download = first_snapshot(row);
    download.set_state(download::State::Succeeded);
    download.fraction = 1.0;
    (download.downloaded_bytes, download.total_bytes) = (size, size);
    download.end_time = Some(SystemTime::now().into());
    Ok(download)
}

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
