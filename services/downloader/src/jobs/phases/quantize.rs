//! Phase 5, quantize: one `model.gguf` from the published weights, or from a person's own model.
//!
//! The file is written as `.model.gguf.new`, synced and renamed. Then the build record is saved, and then the published
//! weights are removed or moved to `source/`.
//!
//! After `kill -9`, the next start ([`repair::startup`](crate::repair::startup)) returns the job:
//! - before the rename: no `model.gguf` exists. The job quantizes again from the verified sources, which are not
//!   fetched again, and overwrites `.model.gguf.new`.
//! - after the rename, before the record: [`verify`](super::verify) removes the `model.gguf`, and the job quantizes
//!   again.
//! - after the record: [`finished_earlier`] finds both and goes on with the sources. Nothing is quantized again.
//!
//! A person's own model has no record: until the folder is sealed, it is quantized again in all cases. The person's
//! files are never changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use millm_kit::ServiceError;
use millm_model::{
    Checkpoint,
    gguf::Value,
    quantize::{Progress, Request, Scheme, quantize},
};
use millm_proto::{catalog::v1::Quantization, downloader::v1::download::State};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    context::Context,
    error::{from_disk, from_model},
    jobs::state::{JobState, Workspace},
    progress::{Reporter, StageShares},
    resolve::{plan::DownloadPlan, quantization},
    store::{
        atomic_file::ignore_not_found,
        manifest::BuildRecord,
        models_dir::{Incoming, QUANTIZED_FILE, SOURCE_FOLDER},
    },
};

/// Small files that make the folder readable to people. The GGUF file holds all that the model needs.
const SIDECARS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// The result of quantizing.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The scheme that was used. It differs from the requested one when that one does not fit the model.
    pub(crate) actual: Scheme,
    /// The reason why the requested scheme was not used.
    pub(crate) reason: Option<String>,
    source_bytes: u64,
}

/// Quantizes the fetched checkpoint.
///
/// # Errors
///
/// INVALID_MODEL_FILE, INSUFFICIENT_DISK, CANCELLED, INTERNAL.
pub(crate) async fn hub_model(
    context: &Context,
    job: &mut JobState,
    plan: &DownloadPlan,
    workspace: &Workspace,
    scheme: Scheme,
) -> Result<Outcome, ServiceError> {
    let folder = workspace.incoming.path().to_owned();
    let work = QuantizeWork {
        source: folder.clone(),
        folder,
        scheme,
        name: job.row.handle.clone(),
        threads: context.threads,
        origin: vec![("repo", plan.repo.clone()), ("commit", plan.commit.clone())],
    };
    work.run(&mut job.reporter, &workspace.writers).await
}

/// Completes the quantizing of a hub model: saves `record`, and then clears the sources.
///
/// # Errors
///
/// INSUFFICIENT_DISK, INTERNAL.
pub(crate) fn finish(
    plan: &DownloadPlan,
    incoming: &Incoming,
    record: &mut BuildRecord,
) -> Result<(), ServiceError> {
    if plan.keep_source {
        for (name, _) in &mut record.known_digests {
            if plan.weights().any(|file| file.save_as == *name) {
                *name = format!("{SOURCE_FOLDER}/{name}");
            }
        }
    }
    record
        .save(incoming)
        .and_then(|()| clear_sources(plan, incoming))
        .map_err(|error| from_disk(&plan.repo, "clearing the sources", &error))
}

/// Returns the record of a model that an earlier run quantized, and clears the sources that it left.
///
/// # Errors
///
/// INSUFFICIENT_DISK, INTERNAL.
pub(crate) fn finished_earlier(
    plan: &DownloadPlan,
    incoming: &Incoming,
) -> Result<Option<BuildRecord>, ServiceError> {
    let has_model = incoming.path().join(QUANTIZED_FILE).is_file();
    let Some(record) = BuildRecord::load(incoming).filter(|_| has_model) else { return Ok(None) };
    clear_sources(plan, incoming).map_err(|error| from_disk(&plan.repo, "clearing the sources", &error))?;
    Ok(Some(record))
}

/// Quantizes a person's own model, and leaves their files as they are.
///
/// # Errors
///
/// INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, INSUFFICIENT_DISK, CANCELLED, INTERNAL.
pub(crate) async fn local_model(
    context: &Context,
    job: &mut JobState,
    workspace: &Workspace,
) -> Result<BuildRecord, ServiceError> {
    let Workspace { incoming, writers } = workspace;
    let source = PathBuf::from(&job.row.local_path);
    let scheme = quantization::scheme(job.row.requested_quantization())
        .ok_or_else(|| ServiceError::internal("a local model without quantization needs no job"))?;
    incoming.create().map_err(|error| from_disk(&job.row.handle, "making a folder", &error))?;
    job.reporter.without_transfer(StageShares::QUANTIZE_ONLY);
    let work = QuantizeWork {
        source: source.clone(),
        folder: incoming.path().to_owned(),
        scheme,
        name: job.row.handle.clone(),
        threads: context.threads,
        origin: vec![("path", job.row.local_path.clone())],
    };
    let outcome = work.run(&mut job.reporter, writers).await?;
    let folder = incoming.path().to_owned();
    job.blocking("copying the tokenizer", move || copy_sidecars(&source, &folder)).await?;
    let mut record = BuildRecord::new(Quantization::Native, String::new(), outcome.source_bytes);
    record.set_quantized(quantization::from_scheme(outcome.actual), outcome.reason);
    Ok(record)
}

/// The work of `millm-model` on a thread of its own, with progress. It is cancelled when its future is dropped.
#[derive(Debug)]
struct QuantizeWork {
    /// A folder, or one GGUF file.
    source: PathBuf,
    /// The folder of the new `model.gguf`.
    folder: PathBuf,
    scheme: Scheme,
    name: String,
    /// 0 means one per core.
    threads: usize,
    /// Metadata of the new file, under `millm.source.*`.
    origin: Vec<(&'static str, String)>,
}

impl QuantizeWork {
    async fn run(self, reporter: &mut Reporter, writers: &TaskTracker) -> Result<Outcome, ServiceError> {
        reporter.stage(State::Quantizing, "");
        let (progress, mut changes) = watch::channel((0.0, String::new()));
        let cancel = CancelOnDrop::default();
        let flag = Arc::clone(&cancel.0);
        let mut work = writers.spawn_blocking(move || self.quantize(&flag, &progress));
        loop {
            tokio::select! {
                done = &mut work => return done.map_err(ServiceError::internal)?,
                Ok(()) = changes.changed() => {
                    let (done, detail) = changes.borrow_and_update().clone();
                    reporter.quantizing(done, detail);
                }
            }
        }
    }

    fn quantize(
        &self,
        cancel: &AtomicBool,
        progress: &watch::Sender<(f64, String)>,
    ) -> Result<Outcome, ServiceError> {
        let failed = |error| from_model(&self.name, error);
        let source = Checkpoint::open(&self.source).map_err(failed)?;
        let extra: Vec<_> = self
            .origin
            .iter()
            .map(|(key, value)| (format!("millm.source.{key}"), Value::String(value.clone())))
            .collect();
        let unfinished = self.folder.join(".model.gguf.new");
        let request =
            Request { scheme: self.scheme, destination: &unfinished, name: &self.name, extra: &extra };
        let mut report = |at: Progress<'_>| {
            let done = at.done_bytes as f64 / at.total_bytes.max(1) as f64;
            progress.send_replace((done, format!("quantizing {}", at.tensor)));
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.map_err(ServiceError::internal)?;
        let outcome = pool.install(|| quantize(&source, &request, cancel, &mut report)).map_err(failed)?;
        let rename = || -> io::Result<()> {
            fs::File::open(&unfinished)?.sync_all()?;
            fs::rename(&unfinished, self.folder.join(QUANTIZED_FILE))
        };
        rename().map_err(|error| from_disk(&self.name, "renaming the quantized file", &error))?;
        Ok(Outcome { actual: outcome.actual, reason: outcome.reason, source_bytes: source.weights_bytes() })
    }
}

#[derive(Debug, Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Removes the published weights, or moves them to `source/`. It completes what a crash interrupted.
fn clear_sources(plan: &DownloadPlan, incoming: &Incoming) -> io::Result<()> {
    let folder = incoming.path().join(SOURCE_FOLDER);
    if plan.keep_source {
        fs::create_dir_all(&folder)?;
    }
    for file in plan.weights() {
        let from = incoming.path().join(&file.save_as);
        if plan.keep_source {
            ignore_not_found(fs::rename(from, folder.join(&file.save_as)))?;
        } else {
            ignore_not_found(fs::remove_file(from))?;
        }
    }
    Ok(())
}

/// Copies the small files of a person's folder beside the model made from it.
fn copy_sidecars(source: &Path, folder: &Path) -> io::Result<()> {
    if !source.is_dir() {
        return Ok(());
    }
    for name in SIDECARS {
        let from = source.join(name);
        if from.is_file() {
            fs::copy(from, folder.join(name))?;
        }
    }
    Ok(())
}
