//! The run of one job: plan, batches, checksums; for a replay also the comparison.

use std::{
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use futures::FutureExt as _;
use millm_extraction::{
    Checkpoint, Comparison, Difference, Facts, Layout, METADATA, Metadata, OutputFile, Plan, PlanReader,
    Writer, WriterOptions, compare, finish, hash_file,
};
use millm_kit::{Reason, ServiceError, Shutdown, panics};
use millm_proto::inspection::v1::ExtractionConfig;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    batches::{BatchSize, Batches, with_progress},
    facts,
    job::{JobState, ReplayRecord},
    jobs::{Job, Jobs, Outcome},
    request::{self, Checked},
    texts::{DatasetsClient, PlanProgress, Planning, Tokenizing},
};
use crate::{error, model_finder::ModelFinder};

/// What runs need. Cheap to clone.
#[derive(Clone)]
pub(super) struct Runner {
    pub models: ModelFinder,
    pub datasets: DatasetsClient,
    pub jobs: Jobs,
    pub shutdown: Shutdown,
    pub tasks: TaskTracker,
}

impl Runner {
    /// Starts the run of a job that waits for its turn.
    pub fn start(&self, job: Arc<Job>) {
        let runner = self.clone();
        let stop = job.cancellation();
        self.tasks.spawn(async move {
            let stopping = runner.shutdown.stopping.clone();
            // Everything that waits or computes asks one token.
            let work = AssertUnwindSafe(runner.run(&job, &stop)).catch_unwind();
            tokio::pin!(work);
            let result = tokio::select! {
                biased;
                result = &mut work => result,
                () = stopping.cancelled() => {
                    stop.cancel();
                    work.await
                }
            };
            let result = result.unwrap_or_else(|panic| {
                Err(ServiceError::internal(format!("an extraction panicked: {}", panics::message(&*panic))))
            });
            let outcome = match result {
                Ok((files, replay)) => Outcome::Succeeded { files, replay },
                // Whatever failed may have failed because the server stops and unloads its models.
                Err(_) if stopping.is_cancelled() => Outcome::Interrupted,
                Err(error) if error.reason == Reason::Cancelled && stop.is_cancelled() => Outcome::Cancelled,
                Err(error) => {
                    tracing::warn!(extraction = %job.id(), reason = error.reason.name(), "{error}");
                    Outcome::Failed(error)
                }
            };
            job.end(outcome);
        });
    }

    async fn run(
        &self,
        job: &Job,
        stop: &CancellationToken,
    ) -> Result<(Vec<OutputFile>, Option<ReplayRecord>), ServiceError> {
        let record = job.record();
        let turn = stop.run_until_cancelled(self.jobs.turn(record.model_id)).await;
        let _turn = turn.flatten().ok_or_else(ServiceError::cancelled)?;
        job.update(|record| {
            record.state = JobState::Running;
            record.start_time = Some(SystemTime::now());
        });
        job.save()?;
        let config = ExtractionConfig::from(&record.config);
        // Names may have been given to others meanwhile: the job is about the first ones.
        let dataset = format!("datasets/{}", record.dataset_id);
        let config = ExtractionConfig { model: record.model_id.to_string(), dataset, ..config };
        let checked = request::check(&config, &self.models, &self.datasets).await?;
        let facts = self.facts(job, &checked, &config).await?;
        let run = JobRun { runner: self, job, checked, handle: record.model_handle, stop: stop.clone() };
        let files = run.extract(facts).await?;
        let replay =
            if record.replay_of.is_empty() { None } else { Some(run.compare(&record.replay_of).await?) };
        Ok((files, replay))
    }

    /// Returns the facts of the job's first run.
    async fn facts(
        &self,
        job: &Job,
        checked: &Checked,
        config: &ExtractionConfig,
    ) -> Result<Facts, ServiceError> {
        let Checked { model, dataset, texts, .. } = checked;
        let options = &self.models.loader.options;
        let present = facts::gather(job.id(), model, dataset, &texts.column.name, config, options).await?;
        let Some(first) = job.record().facts else {
            job.update(|record| record.facts = Some(present.clone()));
            job.save()?;
            return Ok(present);
        };
        match facts::changed(&first, &present) {
            Some(what) => {
                let why = format!("{what} has changed since it began, so it would go on with other results");
                Err(ServiceError::extraction_failed(why))
            }
            None => Ok(first),
        }
    }
}

/// The run of a job whose turn it is.
struct JobRun<'a> {
    runner: &'a Runner,
    job: &'a Job,
    checked: Checked,
    /// The model's name when the job was made.
    handle: String,
    stop: CancellationToken,
}

impl JobRun<'_> {
    /// Writes everything, and returns the files.
    async fn extract(&self, facts: Facts) -> Result<Vec<OutputFile>, ServiceError> {
        if self.job.folder.join(METADATA).is_file() {
            // It was killed after its last file.
            return self.blocking(|run| list_files(&run.folder)).await;
        }
        let plan = self.plan().await?;
        let layout = self.checked.settings.layout(plan.samples, plan.sequence_length);
        let bytes = layout.bytes().map_err(error::from_extraction)?;
        self.job.update(|record| {
            record.samples_total = plan.samples;
            record.disk_bytes = bytes;
        });
        self.job.save()?;
        let checkpoint = self.batches(&plan, &layout, bytes).await?;
        self.finish(plan, layout, checkpoint, facts).await
    }

    /// Makes the plan, or reads the one of an earlier run.
    async fn plan(&self) -> Result<Plan, ServiceError> {
        if let Some(plan) = Plan::load(&self.job.folder).map_err(error::from_extraction)? {
            return Ok(plan);
        }
        let Checked { texts, settings, model, .. } = &self.checked;
        let (loaded, guard) = self.runner.models.loaded(model.id, &self.handle)?;
        let tokenizer = Arc::clone(&loaded.tokenizer);
        drop((loaded, guard));
        let (models, id, handle) = (self.runner.models.clone(), model.id, self.handle.clone());
        let progress = Arc::new(PlanProgress::default());
        let planning = Planning {
            folder: self.job.folder.clone(),
            texts: texts.clone(),
            tokenizing: Tokenizing {
                tokenizer,
                chat: settings.chat,
                special_tokens: settings.special_tokens,
            },
            settings: settings.plan.clone(),
            positions: settings.positions.clone(),
            progress: Arc::clone(&progress),
            use_model: Box::new(move || models.loaded(id, &handle).map(|(_, guard)| guard)),
            stop: self.stop.clone(),
        };
        let runtime = Handle::current();
        let work = tokio::task::spawn_blocking(move || planning.run(&runtime));
        let report = || {
            tracing::debug!(extraction = %self.job.id(), rows = progress.rows(), "tokenizing");
            self.job.update(|_| {});
        };
        with_progress(work, report).await.map_err(error::from_panic)?
    }

    async fn batches(&self, plan: &Plan, layout: &Layout, bytes: u64) -> Result<Checkpoint, ServiceError> {
        let Checked { settings, model, .. } = &self.checked;
        request::check_memory(settings, &self.runner.models)?;
        let (loaded, guard) = self.runner.models.loaded(model.id, &self.handle)?;
        let kv_tokens = loaded.engine.stats().kv_blocks_total * millm_engine::BLOCK_SIZE;
        drop((loaded, guard));
        let size = settings.batch(plan.sequence_length, kv_tokens);
        let (folder, plan, layout) = (self.job.folder.clone(), plan.clone(), layout.clone());
        let samples = plan.samples;
        let opened = tokio::task::spawn_blocking(move || {
            // What is written already needs no more room.
            let present = allocated(&folder);
            request::require_disk(bytes.saturating_sub(present), &folder)?;
            let reader = PlanReader::open(&folder, &plan).map_err(error::from_extraction)?;
            let writer = Writer::open(&folder, layout, &WriterOptions::default());
            Ok::<_, ServiceError>((reader, writer.map_err(error::from_extraction)?))
        });
        let (reader, writer) = opened.await.map_err(error::from_panic)??;
        let batches = Batches {
            job: self.job,
            models: &self.runner.models,
            model_id: model.id,
            handle: &self.handle,
            hooks: settings.hooks(),
            reader: Arc::new(reader),
            writer,
            samples,
            size: BatchSize::new(size),
            stop: self.stop.clone(),
        };
        batches.run().await
    }

    async fn finish(
        &self,
        plan: Plan,
        layout: Layout,
        checkpoint: Checkpoint,
        facts: Facts,
    ) -> Result<Vec<OutputFile>, ServiceError> {
        let done = checkpoint.done();
        let facts =
            Facts { run: millm_extraction::RunFacts { end_time: facts::now(), ..facts.run }, ..facts };
        let work = self.blocking(move |run| {
            finish(&run.folder, &plan, &layout, &checkpoint, facts, &mut |bytes| run.goes_on(bytes))
                .map_err(error::from_extraction)?;
            list_files(&run.folder)
        });
        with_progress(work, || self.job.progress(done, self.job.record().batch_size)).await
    }

    /// Compares the job with the one that it does again.
    async fn compare(&self, replayed: &str) -> Result<ReplayRecord, ServiceError> {
        let first = self.runner.jobs.find(replayed)?.folder.clone();
        let compared = self.blocking(move |run| {
            compare(&first, &run.folder, &mut |bytes| run.goes_on(bytes)).map_err(error::from_extraction)
        });
        Ok(match compared.await? {
            Comparison::Identical => ReplayRecord {
                identical: true,
                file: String::new(),
                sample: 0,
                position: 0,
                message: "identical".to_owned(),
            },
            Comparison::Different(Difference { file, sample, position, message }) => {
                ReplayRecord { identical: false, file, sample, position, message }
            }
        })
    }

    /// Runs work on the job's folder on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FolderWork) -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let run =
            FolderWork { folder: self.job.folder.clone(), stop: self.stop.clone(), bytes: AtomicU64::new(0) };
        tokio::task::spawn_blocking(move || work(&run)).await.map_err(error::from_panic)?
    }
}

/// Work on a job's folder, which can be cancelled.
struct FolderWork {
    folder: PathBuf,
    stop: CancellationToken,
    /// Bytes that were read.
    bytes: AtomicU64,
}

impl FolderWork {
    fn goes_on(&self, bytes: u64) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before >> 30 != (before + bytes) >> 30 {
            tracing::debug!(folder = %self.folder.display(), gigabytes = (before + bytes) >> 30, "reading");
        }
        !self.stop.is_cancelled()
    }
}

/// Returns all files of a complete folder, the metadata as the last one.
fn list_files(folder: &std::path::Path) -> Result<Vec<OutputFile>, ServiceError> {
    let metadata = Metadata::load(folder).map_err(error::from_extraction)?;
    let mut files: Vec<OutputFile> = metadata.all_files().collect();
    files.push(hash_file(&folder.join(METADATA), &mut |_| true).map_err(error::from_extraction)?);
    Ok(files)
}

/// Returns the bytes that the files of a folder take on the disk.
fn allocated(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let metadata = entries.filter_map(|entry| entry.ok()?.metadata().ok());
    metadata.map(|metadata| metadata.blocks().saturating_mul(512)).fold(0, u64::saturating_add)
}
