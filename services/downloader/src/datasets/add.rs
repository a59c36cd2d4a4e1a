//! AddDataset: everything that can be checked is checked before a row exists or a file is fetched.

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use millm_kit::{
    Reason, Secret, ServiceError,
    names::{RepoId, Revision, is_handle},
};
use millm_proto::{
    catalog::v1::{Dataset, Source, dataset::State},
    downloader::v1::{AddDatasetProgress, AddDatasetRequest, HubDataset, add_dataset_request},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    convert::{from_dataset, from_path},
    job::{self, Job, Work},
    resolve::resolve,
    select::Asked,
};
use crate::{
    context::Context, error::from_disk, jobs::queue::Queue, resolve::plan::check_room,
    store::datasets_dir::DatasetsDir,
};

/// The shortest time between two messages.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// The longest name of a column, in bytes.
const MAX_COLUMN_BYTES: usize = 1024;

/// A stream of progress.
pub(crate) type ProgressStream = Pin<Box<dyn Stream<Item = Result<AddDatasetProgress, Status>> + Send>>;

/// Registers a dataset of this machine, or fetches one of the hub. Adding one that failed tries again. Adding one that is
/// being added returns its progress.
///
/// # Errors
///
/// INVALID_ARGUMENT, DATASET_ALREADY_EXISTS, INVALID_DATASET, SERVICE_UNAVAILABLE; for a repository also the hub's errors,
/// INVALID_REPO_ID and INSUFFICIENT_DISK, for a path INVALID_DATASET_PATH.
pub(crate) async fn add(
    context: Arc<Context>,
    queue: Queue,
    request: AddDatasetRequest,
) -> Result<ProgressStream, ServiceError> {
    let AddDatasetRequest { source, handle, column } = request;
    if !handle.is_empty() && !is_handle(&handle) {
        let why = "must be 1 to 255 letters, digits, '-', '_' or '.'";
        return Err(ServiceError::invalid_argument("handle", why));
    }
    if column.len() > MAX_COLUMN_BYTES {
        let why = format!("has {} bytes, the limit is {MAX_COLUMN_BYTES}", column.len());
        return Err(ServiceError::invalid_argument("column", why));
    }
    let (wanted, work, peak_bytes) = match source {
        Some(add_dataset_request::Source::Hub(source)) => of_hub(&context, source, handle).await?,
        Some(add_dataset_request::Source::LocalPath(path)) => {
            of_machine(&context, path, handle, column.clone()).await?
        }
        None => return Err(ServiceError::invalid_argument("source", "must be a repository or a path")),
    };
    queue.wait_ready().await?;
    let started = {
        let context = Arc::clone(&context);
        async move { start(context, wanted, work, peak_bytes, column).await }
    };
    let watcher = context.run_to_completion(started).await?;
    Ok(watch_progress(watcher, context.shutdown.clone()))
}

/// Resolves a dataset of the hub: the row, the work, and the room that it needs.
async fn of_hub(
    context: &Context,
    source: HubDataset,
    handle: String,
) -> Result<(Dataset, Work, u64), ServiceError> {
    let repo = RepoId::parse(&source.repo_id)?;
    let revision = Revision::parse(&source.revision)?;
    let token = Secret::new(source.hf_token).or_else(|| context.token.clone());
    let asked = Asked { config: &source.config, split: &source.split };
    let found = resolve(&context.hub.datasets(), &repo, &revision, asked, token.as_ref()).await?;
    let peak_bytes = found.peak_bytes();
    let mut row = Dataset {
        handle,
        repo_id: found.repo.to_string(),
        revision: found.revision,
        commit: found.commit.clone(),
        config: found.selection.config,
        split: found.selection.split,
        ..Dataset::default()
    };
    row.set_source(Source::Huggingface);
    let work = Work::Hub { repo: found.repo, commit: found.commit, files: found.selection.files, token };
    Ok((row, work, peak_bytes))
}

/// Checks a dataset of this machine: its path, its format, and its column.
async fn of_machine(
    context: &Arc<Context>,
    path: String,
    handle: String,
    column: String,
) -> Result<(Dataset, Work, u64), ServiceError> {
    let allowed = context.dataset_folders.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let files: Vec<PathBuf> = allowed.resolve(&path).map_err(from_path)?;
        millm_dataset::find_column(&files, &column).map_err(from_dataset)?;
        Ok::<_, ServiceError>((path, files))
    });
    let (local_path, files) = checked.await.map_err(ServiceError::internal)??;
    let mut row = Dataset { handle, local_path, ..Dataset::default() };
    row.set_source(Source::Local);
    Ok((row, Work::Local(files), 0))
}

/// Creates the row, or takes that of a failed attempt, and starts the job.
async fn start(
    context: Arc<Context>,
    wanted: Dataset,
    work: Work,
    peak_bytes: u64,
    column: String,
) -> Result<watch::Receiver<AddDatasetProgress>, ServiceError> {
    let jobs = Arc::clone(&context.dataset_jobs);
    let _adding = jobs.adding.lock().await;
    let row = if let Some(row) = context.datasets.find_same(&wanted).await? {
        if let Some(watcher) = jobs.watcher(row.id) {
            return Ok(watcher);
        }
        retry(&context, row, &wanted, peak_bytes).await?
    } else {
        check_room(peak_bytes, 0, context.available_bytes()?)?;
        context.datasets.create(wanted).await?
    };
    tracing::info!(id = row.id, handle = row.handle, "adding a dataset");
    let first = AddDatasetProgress { dataset: Some(row.clone()), ..AddDatasetProgress::default() };
    let place = jobs.begin(row.id, first);
    let watcher = place.progress.subscribe();
    let tasks = context.tasks.clone();
    tasks.spawn(job::run(context, place, Job { row, work, column }));
    Ok(watcher)
}

/// Sets a row that failed back to PENDING. Files of another commit are removed; others are continued from.
async fn retry(
    context: &Context,
    row: Dataset,
    wanted: &Dataset,
    peak_bytes: u64,
) -> Result<Dataset, ServiceError> {
    let exists = || ServiceError::dataset_already_exists(row.id, &row.handle);
    if row.state() == State::Ready {
        return Err(exists());
    }
    let folder = DatasetsDir::new(&context.models_dir).folder(row.id);
    if row.commit != wanted.commit {
        folder
            .remove()
            .map_err(|error| from_disk(&row.handle, "removing the files of another commit", &error))?;
    }
    check_room(peak_bytes, folder.bytes(), context.available_bytes()?)?;
    // With the etag, only one of two concurrent retries succeeds.
    let mut retried = Dataset {
        name: row.name.clone(),
        etag: row.etag.clone(),
        revision: wanted.revision.clone(),
        commit: wanted.commit.clone(),
        ..Dataset::default()
    };
    retried.set_state(State::Pending);
    match context.datasets.update(&retried, &["state", "error", "revision", "commit"]).await {
        Err(error) if error.reason == Reason::Conflict => Err(exists()),
        other => other,
    }
}

/// Streams the progress of a job to its end: READY or ERROR. The stream ends with UNAVAILABLE when the process stops, and
/// with DATASET_NOT_FOUND when the dataset was removed.
fn watch_progress(
    mut watcher: watch::Receiver<AddDatasetProgress>,
    stopping: CancellationToken,
) -> ProgressStream {
    let is_final = |progress: &AddDatasetProgress| {
        let state = progress.dataset.as_ref().map(Dataset::state);
        matches!(state, Some(State::Ready | State::Error))
    };
    Box::pin(async_stream::stream! {
        loop {
            let progress = watcher.borrow_and_update().clone();
            let last = is_final(&progress);
            let sent = Instant::now();
            yield Ok(progress);
            if last {
                return;
            }
            let changed = async {
                let changed = watcher.changed().await;
                if changed.is_ok() {
                    tokio::time::sleep_until(sent + MIN_INTERVAL).await;
                }
                changed
            };
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                changed = changed => if changed.is_ok() { continue },
            }
            // The job has ended, or will. A final message may have come meanwhile.
            let last = watcher.borrow_and_update().clone();
            if is_final(&last) {
                yield Ok(last);
            } else if stopping.is_cancelled() {
                yield Err(ServiceError::service_unavailable("downloader").into());
            } else {
                let handle = last.dataset.map(|dataset| dataset.handle).unwrap_or_default();
                yield Err(ServiceError::dataset_not_found(handle).into());
            }
            return;
        }
    })
}
