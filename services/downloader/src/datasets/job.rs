//! The job of one dataset: fetch its files, if they are on the hub; scan them; write the row.
//!
//! After `kill -9`: files under their final names are verified and not fetched again, and a partial file keeps the blocks
//! that its ledger notes, once the dataset is added again. The row is PENDING; the next start sets it to ERROR.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use futures::{StreamExt as _, TryStreamExt as _};
use millm_dataset::scan;
use millm_kit::{Reason, Secret, ServiceError, names::RepoId};
use millm_proto::catalog::v1::{Dataset, dataset::State};
use tokio_util::task::TaskTracker;

use super::{
    convert::{from_dataset, set_scan},
    jobs::JobPlace,
};
use crate::{
    context::Context,
    error::from_disk,
    hub::api_types::RemoteFile,
    limits::{LARGE_FILES_AT_ONCE, SMALL_FILE_BYTES, SMALL_FILES_AT_ONCE},
    progress::{FileMeter, TICK},
    store::datasets_dir::{DatasetFolder, DatasetsDir},
    transfer::{Transfer, shared_limits::SharedLimits},
};

/// The fields of a row that a finished job writes.
const READY_FIELDS: &[&str] = &["state", "error", "files", "format", "rows", "columns", "column"];

/// A job: the row, the files, and the column that was asked for.
pub(super) struct Job {
    pub(super) row: Dataset,
    pub(super) work: Work,
    /// Empty: found.
    pub(super) column: String,
}

/// What a job works on.
pub(super) enum Work {
    /// Files of this machine.
    Local(Vec<PathBuf>),
    /// Files of a repository at a pinned commit.
    Hub { repo: RepoId, commit: String, files: Vec<RemoteFile>, token: Option<Secret> },
}

/// How a job ended early.
enum End {
    Failed(ServiceError),
    /// The dataset is being removed, or the process stops: whoever comes next deals with the row.
    Stopped,
}

impl From<ServiceError> for End {
    fn from(error: ServiceError) -> Self {
        Self::Failed(error)
    }
}

/// Runs a job to its end.
pub(super) async fn run(context: Arc<Context>, place: JobPlace, job: Job) {
    let id = job.row.id;
    let writers = TaskTracker::new();
    let stop = place.stop.clone();
    let done = tokio::select! {
        biased;
        () = stop.cancelled() => Err(End::Stopped),
        () = context.shutdown.cancelled() => Err(End::Stopped),
        done = finish(&context, &place, job, &writers) => done,
    };
    // Threads of a transfer or a scan that was dropped above may still be working.
    writers.close();
    writers.wait().await;
    let written = match done {
        Ok(row) => {
            tracing::info!(id, handle = row.handle, rows = row.rows, "dataset ready");
            Some(Ok(row))
        }
        Err(End::Failed(error)) => {
            tracing::warn!(id, error = error.message, "dataset failed");
            if error.reason == Reason::InsufficientDisk {
                give_room_back(&context, id).await;
            }
            context.datasets.fail_with_retry(&context.shutdown, id, &error).await
        }
        Err(End::Stopped) => None,
    };
    match written {
        Some(Ok(row)) => place.progress.send_modify(|progress| {
            progress.error.clone_from(&row.error);
            progress.detail.clear();
            progress.dataset = Some(row);
        }),
        Some(Err(error)) => tracing::warn!(id, error = error.message, "row not written"),
        None => {}
    }
}

/// Fetches and scans the files, and writes the row.
async fn finish(
    context: &Context,
    place: &JobPlace,
    job: Job,
    writers: &TaskTracker,
) -> Result<Dataset, End> {
    let Job { mut row, work, column } = job;
    place.progress.send_modify(|progress| "waiting for other datasets".clone_into(&mut progress.detail));
    let slot = context.dataset_jobs.slots.acquire().await.map_err(ServiceError::internal)?;
    let files = match work {
        Work::Local(files) => files,
        Work::Hub { repo, commit, files, token } => {
            let folder = DatasetsDir::new(&context.models_dir).folder(row.id);
            let fetch = Fetch { repo, commit, files, token, folder: folder.clone() };
            let paths = fetch.run(context, place, writers).await?;
            folder
                .remove_partials()
                .map_err(|error| from_disk(&row.handle, "removing partial files", &error))?;
            paths
        }
    };
    let scan = scan_files(place, files, column, writers).await?;
    drop(slot);
    set_scan(&mut row, scan)?;
    row.set_state(State::Ready);
    let written = context.datasets.update_with_retry(&context.shutdown, &row, READY_FIELDS).await;
    Ok(written.ok_or(End::Stopped)??)
}

/// Removes the files of a dataset for which the disk has too little room.
async fn give_room_back(context: &Context, id: i64) {
    let folder = DatasetsDir::new(&context.models_dir).folder(id);
    match tokio::task::spawn_blocking(move || folder.remove()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(id, %error, "files were not removed"),
        Err(error) => tracing::warn!(id, %error, "files were not removed"),
    }
}

/// Scans the files on a thread. The scan ends when its caller is dropped.
async fn scan_files(
    place: &JobPlace,
    files: Vec<PathBuf>,
    column: String,
    writers: &TaskTracker,
) -> Result<millm_dataset::Scan, ServiceError> {
    let total: u64 =
        files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|file| file.len()).sum();
    place.progress.send_modify(|progress| {
        "reading and hashing".clone_into(&mut progress.detail);
        (progress.bytes_done, progress.bytes_total) = (0, total as i64);
    });
    let stopped = StopOnDrop(Arc::default());
    let (progress, is_stopped) = (place.progress.clone(), Arc::clone(&stopped.0));
    let scanned = writers.spawn_blocking(move || {
        scan(&files, &column, &mut |bytes| {
            progress.send_modify(|progress| progress.bytes_done = bytes as i64);
            !is_stopped.load(Relaxed)
        })
    });
    scanned.await.map_err(ServiceError::internal)?.map_err(from_dataset)
}

/// Tells a thread that nobody waits for it any longer.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The transfers of a dataset's files.
struct Fetch {
    repo: RepoId,
    commit: String,
    files: Vec<RemoteFile>,
    token: Option<Secret>,
    folder: DatasetFolder,
}

impl Fetch {
    /// Fetches and verifies all files, as a model's: the small ones a few at a time, then the large ones in their order.
    /// Returns their paths in the order of the files.
    async fn run(
        self,
        context: &Context,
        place: &JobPlace,
        writers: &TaskTracker,
    ) -> Result<Vec<PathBuf>, ServiceError> {
        let total: u64 = self.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
        let meters: Vec<Arc<FileMeter>> = self.files.iter().map(|_| Arc::default()).collect();
        let (mut transfers, mut paths) = (Vec::new(), Vec::new());
        let shared = SharedLimits::new();
        for (file, meter) in self.files.iter().zip(&meters) {
            let prepared = self.folder.prepare(&file.path);
            let (destination, partial) =
                prepared.map_err(|error| from_disk(self.repo.as_str(), "making a folder", &error))?;
            paths.push(destination.clone());
            transfers.push(Transfer {
                hub: context.hub.datasets(),
                repo: self.repo.clone(),
                commit: self.commit.clone(),
                token: self.token.clone(),
                file: file.clone(),
                partial,
                destination,
                meter: Arc::clone(meter),
                shared: Arc::clone(&shared),
                writers: writers.clone(),
            });
        }
        let report = || {
            let done: u64 = meters.iter().map(|meter| meter.present()).sum();
            place.progress.send_modify(|progress| {
                "fetching".clone_into(&mut progress.detail);
                (progress.bytes_done, progress.bytes_total) = (done.min(total) as i64, total as i64);
            });
        };
        let (small, large): (Vec<_>, Vec<_>) =
            transfers.into_iter().partition(|transfer| transfer.file.size <= SMALL_FILE_BYTES);
        let all = async {
            let small = futures::stream::iter(small.into_iter().map(Transfer::run));
            small.buffer_unordered(SMALL_FILES_AT_ONCE).try_collect::<()>().await?;
            let large = futures::stream::iter(large.into_iter().map(Transfer::run));
            large.buffer_unordered(LARGE_FILES_AT_ONCE).try_collect::<()>().await
        };
        let mut all = std::pin::pin!(all);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                end = &mut all => {
                    end?;
                    report();
                    return Ok(paths);
                }
                _ = ticks.tick() => report(),
            }
        }
    }
}
