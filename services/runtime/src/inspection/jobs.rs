//! All extraction jobs: their folders are the only database. Jobs of one model run one after the other.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use millm_extraction::{Done, OutputFile};
use millm_kit::{ServiceError, format::excerpt};
use millm_proto::inspection::v1::{Extraction, ExtractionConfig};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::job::{ErrorRecord, JobRecord, JobState, ReplayRecord};

/// Jobs that may run or wait.
const MAX_ACTIVE: usize = 64;
/// Jobs that are listed at all.
const MAX_JOBS: usize = 100_000;
/// The file that a running job's process has locked.
const LOCK: &str = "lock";
/// The longest time for which progress is only in memory.
const SAVE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

/// All jobs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Jobs(Arc<Inner>);

struct Inner {
    root: PathBuf,
    jobs: Mutex<BTreeMap<String, Arc<Job>>>,
    /// Changes when a job is added or removed.
    listed: watch::Sender<()>,
    /// One permit for each model.
    turns: Mutex<HashMap<i64, Arc<Semaphore>>>,
}

/// One job.
pub(crate) struct Job {
    pub folder: PathBuf,
    id: String,
    record: Mutex<JobRecord>,
    snapshot: watch::Sender<Extraction>,
    /// Set while the job runs or waits.
    run: Mutex<Option<Run>>,
}

/// A job's present run.
struct Run {
    cancel: CancellationToken,
    ended: CancellationToken,
    started: Instant,
    /// The samples that were done when it began.
    before: Option<u64>,
    saved: Instant,
    /// Locked for as long as it is open.
    _lock: File,
}

impl Jobs {
    /// Reads the jobs of a folder. Those that a process left in their middle are marked as interrupted. Blocks.
    pub fn open(root: PathBuf) -> Self {
        let mut jobs = BTreeMap::new();
        for folder in folders(&root) {
            if jobs.len() == MAX_JOBS {
                tracing::warn!(root = %root.display(), "only {MAX_JOBS} extractions are listed");
                break;
            }
            match reopen(&folder) {
                Ok(Some(record)) => drop(jobs.insert(record.id.clone(), Arc::new(Job::new(folder, record)))),
                Ok(None) => {}
                Err(error) => tracing::warn!(folder = %folder.display(), "not an extraction: {error}"),
            }
        }
        let listed = watch::Sender::new(());
        Self(Arc::new(Inner { root, jobs: Mutex::new(jobs), listed, turns: Mutex::default() }))
    }

    /// Returns the folder of all jobs.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Returns the job with this id or resource name.
    ///
    /// # Errors
    ///
    /// EXTRACTION_NOT_FOUND.
    pub fn find(&self, name: &str) -> Result<Arc<Job>, ServiceError> {
        let id = name.strip_prefix("extractions/").unwrap_or(name);
        let found = self.0.jobs.lock().get(id).cloned();
        found.ok_or_else(|| ServiceError::extraction_not_found(excerpt(id)))
    }

    /// Returns all jobs, the newest first.
    pub fn list(&self) -> Vec<Arc<Job>> {
        self.0.jobs.lock().values().rev().cloned().collect()
    }

    /// Returns a receiver that changes when a job is added or removed.
    pub fn watch_list(&self) -> watch::Receiver<()> {
        self.0.listed.subscribe()
    }

    /// Adds a job that waits. `change` completes its record.
    ///
    /// # Errors
    ///
    /// QUEUE_FULL, INSUFFICIENT_DISK, or EXTRACTION_FAILED where the folder cannot be written.
    pub fn add(
        &self,
        config: &ExtractionConfig,
        change: impl FnOnce(&mut JobRecord),
    ) -> Result<Arc<Job>, ServiceError> {
        self.check_active()?;
        let id = new_id();
        let mut record = JobRecord::new(id.clone(), config);
        change(&mut record);
        let folder = self.0.root.join(&id);
        fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, &error))?;
        let job = Arc::new(Job::new(folder, record));
        job.begin()?;
        job.save()?;
        self.0.jobs.lock().insert(id, Arc::clone(&job));
        self.0.listed.send_replace(());
        Ok(job)
    }

    /// Lets a job that is over wait for another run.
    ///
    /// # Errors
    ///
    /// EXTRACTION_RUNNING, INVALID_ARGUMENT for a job that has succeeded, QUEUE_FULL, or EXTRACTION_FAILED where the folder
    /// cannot be written.
    pub fn resume(&self, job: &Job) -> Result<(), ServiceError> {
        if job.state() == JobState::Succeeded {
            let why = "names an extraction that is finished: there is nothing to resume";
            return Err(ServiceError::invalid_argument("name", why));
        }
        self.check_active()?;
        job.begin()?;
        job.update(|record| {
            record.state = JobState::Queued;
            (record.error, record.end_time) = (None, None);
        });
        job.save()
    }

    fn check_active(&self) -> Result<(), ServiceError> {
        let jobs = self.0.jobs.lock();
        let active = jobs.values().filter(|job| !job.state().is_over()).count();
        if active >= MAX_ACTIVE || jobs.len() >= MAX_JOBS {
            return Err(ServiceError::queue_full(active));
        }
        Ok(())
    }

    /// Removes a job and its files. Blocks.
    ///
    /// # Errors
    ///
    /// EXTRACTION_RUNNING, or EXTRACTION_FAILED where files cannot be removed.
    pub fn remove(&self, job: &Job) -> Result<(), ServiceError> {
        // Taken as for a run, so that no run begins meanwhile. A folder that somebody removed needs no lock.
        if job.folder.exists() {
            job.begin()?;
        }
        let removed = match fs::remove_dir_all(&job.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot_write(&job.folder, &error)),
            _ => Ok(()),
        };
        if removed.is_ok() {
            self.0.jobs.lock().remove(&job.id);
            self.0.listed.send_replace(());
        }
        *job.run.lock() = None;
        removed
    }

    /// Returns a permit of a model when it is the job's turn. Waiting jobs get theirs in order.
    pub async fn turn(&self, model_id: i64) -> Option<OwnedSemaphorePermit> {
        let turn =
            Arc::clone(self.0.turns.lock().entry(model_id).or_insert_with(|| Arc::new(Semaphore::new(1))));
        // The semaphore is never closed.
        turn.acquire_owned().await.ok()
    }
}

impl Job {
    fn new(folder: PathBuf, record: JobRecord) -> Self {
        let snapshot = watch::Sender::new(record.to_proto());
        Self { folder, id: record.id.clone(), record: Mutex::new(record), snapshot, run: Mutex::new(None) }
    }

    /// Returns the job's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns a copy of the record.
    pub fn record(&self) -> JobRecord {
        self.record.lock().clone()
    }

    /// Returns the state.
    pub fn state(&self) -> JobState {
        self.record.lock().state
    }

    /// Returns the job as the API shows it.
    pub fn snapshot(&self) -> Extraction {
        self.snapshot.borrow().clone()
    }

    /// Returns a receiver of the job as the API shows it.
    pub fn watch(&self) -> watch::Receiver<Extraction> {
        self.snapshot.subscribe()
    }

    /// Begins a run, by this process alone.
    fn begin(&self) -> Result<(), ServiceError> {
        let mut run = self.run.lock();
        if run.is_some() {
            return Err(ServiceError::extraction_running(&self.id));
        }
        let lock = lock(&self.folder).map_err(|error| match error {
            TryLockError::WouldBlock => ServiceError::extraction_running(&self.id),
            TryLockError::Error(error) => cannot_write(&self.folder, &error),
        })?;
        let now = Instant::now();
        *run = Some(Run {
            cancel: CancellationToken::new(),
            ended: CancellationToken::new(),
            started: now,
            before: None,
            saved: now,
            _lock: lock,
        });
        Ok(())
    }

    /// Returns the token that ends the present run when it is cancelled; a cancelled one if there is no run.
    pub fn cancellation(&self) -> CancellationToken {
        self.run.lock().as_ref().map_or_else(
            || {
                let ended = CancellationToken::new();
                ended.cancel();
                ended
            },
            |run| run.cancel.clone(),
        )
    }

    /// Cancels the present run and waits until it has ended.
    pub async fn cancel(&self) {
        let Some(ended) = self.run.lock().as_ref().map(|run| {
            run.cancel.cancel();
            run.ended.clone()
        }) else {
            return;
        };
        ended.cancelled().await;
    }

    /// Changes the record, and shows it.
    pub fn update(&self, change: impl FnOnce(&mut JobRecord)) {
        let mut record = self.record.lock();
        change(&mut record);
        self.snapshot.send_replace(record.to_proto());
    }

    /// Writes the record to the disk.
    ///
    /// # Errors
    ///
    /// INSUFFICIENT_DISK, or EXTRACTION_FAILED where the folder cannot be written.
    pub fn save(&self) -> Result<(), ServiceError> {
        self.record.lock().save(&self.folder).map_err(|error| cannot_write(&self.folder, &error))
    }

    /// Shows how far the job is.
    pub fn progress(&self, done: Done, batch_size: u32) {
        let (rate, is_due) = {
            let mut run = self.run.lock();
            let Some(run) = run.as_mut() else { return };
            if run.before.is_none() {
                (run.before, run.started) = (Some(done.samples), Instant::now());
            }
            let samples = done.samples.saturating_sub(run.before.unwrap_or_default());
            let is_due = run.saved.elapsed() >= SAVE_INTERVAL;
            if is_due {
                run.saved = Instant::now();
            }
            (samples as f64 / run.started.elapsed().as_secs_f64().max(1e-3), is_due)
        };
        {
            let mut record = self.record.lock();
            record.samples_done = done.samples;
            record.tokens_done = done.tokens;
            record.batch_size = batch_size;
            let mut shown = record.to_proto();
            shown.samples_per_second = rate;
            let left = record.samples_total.saturating_sub(done.samples) as f64 / rate;
            // Beyond some years nothing is known.
            shown.time_left = (rate > 0.0 && left < 1e9)
                .then_some(prost_types::Duration { seconds: left.ceil() as i64, nanos: 0 });
            shown.disk_bytes = written(record.disk_bytes, done.samples, record.samples_total) as i64;
            self.snapshot.send_replace(shown);
        }
        if is_due && let Err(error) = self.save() {
            tracing::warn!(extraction = %self.id, "progress is not saved: {error}");
        }
    }

    /// Ends the present run.
    pub fn end(&self, outcome: Outcome) {
        self.update(|record| {
            record.end_time = Some(SystemTime::now());
            match outcome {
                Outcome::Succeeded { files, replay } => {
                    record.state = JobState::Succeeded;
                    record.disk_bytes = files.iter().map(|file| file.size_bytes).sum();
                    record.samples_done = record.samples_total;
                    (record.files, record.replay) = (files, replay);
                }
                Outcome::Failed(error) => {
                    record.state = JobState::Failed;
                    record.error = Some(ErrorRecord::from(&error));
                }
                Outcome::Cancelled => record.state = JobState::Cancelled,
                Outcome::Interrupted => record.state = JobState::Interrupted,
            }
        });
        if let Err(error) = self.save() {
            tracing::error!(extraction = %self.id, "the end is not saved: {error}");
        }
        if let Some(run) = self.run.lock().take() {
            run.ended.cancel();
        }
    }
}

/// How a run ended.
pub(crate) enum Outcome {
    Succeeded {
        files: Vec<OutputFile>,
        replay: Option<ReplayRecord>,
    },
    Failed(ServiceError),
    Cancelled,
    /// The server stops.
    Interrupted,
}

/// Returns the bytes on the disk when a part of the samples is written.
fn written(all: u64, done: u64, total: u64) -> u64 {
    (u128::from(all) * u128::from(done) / u128::from(total.max(1))) as u64
}

/// Returns the folders below the root.
fn folders(root: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(root = %root.display(), "cannot list extractions: {error}");
            }
            return Vec::new();
        }
    };
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut folders: Vec<PathBuf> = folders.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Reads a job's record. A run that its process did not end is marked as interrupted. `None` for a job that another
/// process runs now.
fn reopen(folder: &Path) -> io::Result<Option<JobRecord>> {
    let mut record = JobRecord::load(folder)?;
    if record.state.is_over() {
        return Ok(Some(record));
    }
    match lock(folder) {
        Ok(_lock) => {
            record.state = JobState::Interrupted;
            record.end_time = Some(SystemTime::now());
            record.save(folder)?;
            Ok(Some(record))
        }
        Err(TryLockError::WouldBlock) => {
            tracing::info!(extraction = %record.id, "another server runs it");
            Ok(None)
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Locks a job's folder for this process.
fn lock(folder: &Path) -> Result<File, TryLockError> {
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(folder.join(LOCK));
    let file = file.map_err(TryLockError::Error)?;
    file.try_lock()?;
    Ok(file)
}

/// Returns an id: milliseconds since 1970, so that ids are in the order of their creation, and a random number.
fn new_id() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let next = |last: u64| Some(now.max(last + 1));
    // The function never returns `None`.
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
    format!("{:011x}-{:06x}", now.max(last + 1), rand::random::<u32>() & 0x00ff_ffff)
}

/// Returns the error of a folder that cannot be written.
fn cannot_write(folder: &Path, error: &io::Error) -> ServiceError {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return crate::error::disk_full();
    }
    ServiceError::extraction_failed(format!("{}: {error}", folder.display()))
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
