//! StartDownload: everything that can be checked is checked before a row exists or weights are fetched.

use std::sync::Arc;

use millm_kit::{
    Secret, ServiceError,
    names::{RepoId, Revision, is_handle},
};
use millm_proto::{
    catalog::v1::{Model, Quantization, Source},
    downloader::v1::{Download, HubSource, StartDownloadRequest, start_download_request},
};

use crate::{
    context::Context,
    error::from_disk,
    jobs::{
        local,
        queue::{JobRequest, Queue},
    },
    resolve::{
        inspect::RepoQuery,
        offline,
        plan::{DownloadPlan, check_room},
        quantization,
        select::Selection,
    },
};

/// Starts a download, or registers a local model.
///
/// # Errors
///
/// INVALID_ARGUMENT, INVALID_REPO_ID, MODEL_ALREADY_EXISTS, INSUFFICIENT_DISK, INVALID_MODEL_FILE,
/// UNSUPPORTED_ARCHITECTURE, REMOTE_CODE_REQUIRED, SERVICE_UNAVAILABLE; for a repository also the hub's errors, for a
/// path INVALID_LOCAL_PATH.
pub(super) async fn start(
    context: Arc<Context>,
    queue: Queue,
    mut request: StartDownloadRequest,
) -> Result<Download, ServiceError> {
    if !request.handle.is_empty() && !is_handle(&request.handle) {
        return Err(ServiceError::invalid_argument(
            "handle",
            "must be 1 to 255 letters, digits, '-', '_' or '.'",
        ));
    }
    match request.source.take() {
        Some(start_download_request::Source::Hub(source)) => start_hub(context, queue, source, request).await,
        Some(start_download_request::Source::LocalPath(path)) => {
            start_local(context, queue, path, request).await
        }
        None => Err(ServiceError::invalid_argument("source", "must be a repository or a path")),
    }
}

async fn start_hub(
    context: Arc<Context>,
    queue: Queue,
    source: HubSource,
    request: StartDownloadRequest,
) -> Result<Download, ServiceError> {
    let repo = RepoId::parse(&source.repo_id)?;
    let revision = Revision::parse(&source.revision)?;
    let selection = Selection {
        file: &source.file,
        variant: &source.variant,
        subfolder: &source.subfolder,
        quantization: Quantization::Unspecified,
    };
    let requested = quantization::parse_requested(request.quantization, selection.default_quantization())?;
    let token = Secret::new(source.hf_token).or_else(|| context.token.clone());
    let query = RepoQuery {
        repo: &repo,
        revision: revision.as_str(),
        selection: Selection { quantization: requested, ..selection },
        token: token.as_ref(),
    };
    let inspection = offline::inspect(&context, &query).await?;
    let spec = inspection.allowed_spec(request.trust_remote_code)?;
    let plan = DownloadPlan::new(&inspection, &spec, requested, request.keep_source);
    queue.wait_ready().await?;
    let mut row = Model {
        handle: request.handle,
        repo_id: plan.repo.clone(),
        revision: revision.to_string(),
        commit: plan.commit.clone(),
        file: inspection.weights.distinguishing_file().to_owned(),
        trust_remote_code: request.trust_remote_code,
        ..Model::default()
    };
    row.set_source(Source::Huggingface);
    row.set_requested_quantization(requested);
    let keep_source = request.keep_source;
    let work = {
        let context = Arc::clone(&context);
        async move {
            let existing = context.catalog.find_same(&row).await?;
            let present = existing.as_ref().map_or(0, |row| context.models_dir.incoming(row.id).bytes());
            check_room(plan.peak_bytes, present, context.available_bytes()?)?;
            let row = context.catalog.create_or_retry(row).await?;
            let incoming = context.models_dir.incoming(row.id);
            let saved =
                plan.save(&incoming).map_err(|error| from_disk(&plan.repo, "writing the plan", &error));
            if let Err(error) = saved {
                let _ = context.catalog.fail_with_retry(&context.shutdown, row.id, &error).await;
                return Err(error);
            }
            let request = JobRequest { row, token, keep_source, bytes: plan.download_bytes() };
            Ok(queue.submit(request).await?.borrow().clone())
        }
    };
    context.run_to_completion(work).await
}

/// Registers a local model at once, or queues its quantization.
async fn start_local(
    context: Arc<Context>,
    queue: Queue,
    path: String,
    request: StartDownloadRequest,
) -> Result<Download, ServiceError> {
    let requested = quantization::parse_requested(request.quantization, Quantization::Native)?;
    let local_path = local::check(&context, path, requested, request.trust_remote_code).await?;
    queue.wait_ready().await?;
    let mut row = Model {
        handle: request.handle,
        local_path,
        trust_remote_code: request.trust_remote_code,
        ..Model::default()
    };
    row.set_source(Source::Local);
    row.set_requested_quantization(requested);
    let work = {
        let context = Arc::clone(&context);
        async move {
            let row = context.catalog.create_or_retry(row).await?;
            if quantization::scheme(requested).is_some() {
                let request = JobRequest { row, token: None, keep_source: false, bytes: 0 };
                return Ok(queue.submit(request).await?.borrow().clone());
            }
            match local::register(&context, &row).await {
                Ok(download) => {
                    queue.record(download.clone()).await?;
                    Ok(download)
                }
                Err(error) => {
                    // The model passed its check before, so this is rare; the row must not stay PENDING.
                    let _ = context.catalog.fail_with_retry(&context.shutdown, row.id, &error).await;
                    Err(error)
                }
            }
        }
    };
    context.run_to_completion(work).await
}
