//! The jobs of datasets that run in this process. A job is found by its dataset, watched by many, and stopped by one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millm_proto::downloader::v1::AddDatasetProgress;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// The jobs that run.
#[derive(Debug)]
pub(crate) struct DatasetJobs {
    running: Mutex<HashMap<i64, RunningJob>>,
    /// The jobs that work at the same time. Others wait.
    pub(super) slots: Semaphore,
    /// Held from the look for a row until its job is known, so that one row has one job.
    pub(super) adding: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct RunningJob {
    progress: watch::Receiver<AddDatasetProgress>,
    stop: CancellationToken,
}

/// The place of a job among those that run. It is given back when the job ends.
#[derive(Debug)]
pub(super) struct JobPlace {
    jobs: Arc<DatasetJobs>,
    id: i64,
    pub(super) progress: watch::Sender<AddDatasetProgress>,
    pub(super) stop: CancellationToken,
}

impl DatasetJobs {
    /// Makes an empty list, for this many jobs that work at the same time.
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            slots: Semaphore::new(slots.max(1)),
            adding: tokio::sync::Mutex::default(),
        })
    }

    /// Returns the progress of a dataset's job, if one runs.
    pub(super) fn watcher(&self, id: i64) -> Option<watch::Receiver<AddDatasetProgress>> {
        self.locked().get(&id).map(|job| job.progress.clone())
    }

    /// Notes a new job with its first progress.
    pub(super) fn begin(self: &Arc<Self>, id: i64, first: AddDatasetProgress) -> JobPlace {
        let (progress, watcher) = watch::channel(first);
        let stop = CancellationToken::new();
        self.locked().insert(id, RunningJob { progress: watcher, stop: stop.clone() });
        JobPlace { jobs: Arc::clone(self), id, progress, stop }
    }

    /// Stops a dataset's job, if one runs, and waits for its end.
    pub(super) async fn stop(&self, id: i64) {
        let Some(RunningJob { mut progress, stop }) = self.locked().get(&id).cloned() else { return };
        stop.cancel();
        // The sender is dropped when the job has ended.
        while progress.changed().await.is_ok() {}
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<i64, RunningJob>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for JobPlace {
    fn drop(&mut self) {
        // Before the sender is dropped: who waits for that may begin another job.
        self.jobs.locked().remove(&self.id);
    }
}
