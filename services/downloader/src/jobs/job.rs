//! One job from its turn in the queue to its end. It runs the phases in order, and is the only writer of the download's
//! snapshot and of the row's final state.
//!
//! A job ends in one of four ways: the row is READY; the row is ERROR, and the files stay for a retry; the download was
//! cancelled, and neither files nor row are left; or the process stops, and the next one resumes the job.

use std::time::Duration;

use millm_kit::{Reason, ServiceError};
use millm_proto::{catalog::v1::Quantization, downloader::v1::download::State};
use tokio_util::task::TaskTracker;

use super::{
    phases::{fetch, quantize, resolve, reuse, seal, verify},
    state::{JobEnd, JobState, Workspace},
};
use crate::{
    context::Context,
    progress::StageShares,
    resolve::quantization,
    store::{
        file_lock::FileLock,
        manifest::{BuildRecord, Manifest},
    },
};

/// The time between two attempts to lock the model. File locks do not notify.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Runs a job to its end.
pub(crate) async fn run(mut job: JobState, context: &Context) {
    match run_phases(&mut job, context).await {
        Ok(()) => {
            tracing::info!(id = job.row.id, handle = job.row.handle, "model ready");
            job.reporter.succeed();
        }
        Err(JobEnd::Failed(error)) => fail(job, context, error).await,
        Err(JobEnd::Cancelled) => clear(job, context).await,
        Err(JobEnd::Suspended) => tracing::info!(id = job.row.id, "download suspended"),
    }
}

async fn run_phases(job: &mut JobState, context: &Context) -> Result<(), JobEnd> {
    let incoming = context.models_dir.incoming(job.row.id);
    if incoming.is_cancelled() {
        return Err(JobEnd::Cancelled);
    }
    let workspace = Workspace { incoming, writers: TaskTracker::new() };
    let _lock = wait_for_lock(job, context).await?;
    if let Some(folder) = seal::find_finished_folder(context, job).await? {
        return seal::register(context, job, &folder).await;
    }
    if Manifest::read_complete(workspace.incoming.path()).is_none() {
        let cancel = job.cancel.clone();
        let built = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(JobEnd::Cancelled),
            () = context.shutdown.cancelled() => Err(JobEnd::Suspended),
            built = build(job, context, &workspace) => built.map_err(JobEnd::Failed),
        };
        // Threads of a phase that was dropped above may still be writing.
        workspace.writers.close();
        workspace.writers.wait().await;
        built?;
    }
    // After this check a cancel comes too late.
    if job.cancel.is_cancelled() {
        return Err(JobEnd::Cancelled);
    }
    let folder = seal::rename_to_final(context, job, &workspace).await?;
    seal::register(context, job, &folder).await
}

/// Runs the phases up to a sealed folder.
async fn build(job: &mut JobState, context: &Context, workspace: &Workspace) -> Result<(), ServiceError> {
    let record = if !job.row.local_path.is_empty() {
        quantize::local_model(context, job, workspace).await?
    } else if let Some(record) = reuse::identical_model(context, job, workspace).await? {
        record
    } else {
        build_from_hub(job, context, workspace).await?
    };
    seal::run(context, job, workspace, record).await
}

async fn build_from_hub(
    job: &mut JobState,
    context: &Context,
    workspace: &Workspace,
) -> Result<BuildRecord, ServiceError> {
    let plan = resolve::run(context, job, &workspace.incoming).await?;
    if let Some(record) = quantize::finished_earlier(&plan, &workspace.incoming)? {
        return Ok(record);
    }
    let requested = job.row.requested_quantization();
    let scheme = quantization::scheme(requested);
    let reason = match scheme {
        Some(_) if plan.is_gguf => "the repository publishes GGUF, which is kept as it is",
        _ => "",
    };
    let scheme = scheme.filter(|_| !plan.is_gguf);
    let mut record = BuildRecord::new(Quantization::Native, reason.to_owned(), plan.download_bytes());
    record.known_digests = plan.files.iter().map(|file| (file.save_as.clone(), file.digest)).collect();
    let shares =
        if scheme.is_some() { StageShares::TRANSFER_AND_QUANTIZE } else { StageShares::TRANSFER_ONLY };
    reuse::files(context, job, &plan, workspace).await?;
    fetch::run(context, job, &plan, workspace, shares).await?;
    verify::run(context, job, &plan, workspace, scheme).await?;
    match scheme {
        Some(scheme) => {
            let outcome = quantize::hub_model(context, job, &plan, workspace, scheme).await?;
            record.set_quantized(quantization::from_scheme(outcome.actual), outcome.reason);
            quantize::finish(&plan, &workspace.incoming, &mut record)?;
            Ok(record)
        }
        None => Ok(record),
    }
}

/// Waits while another process makes the same model. Its result is reused then.
async fn wait_for_lock(job: &mut JobState, context: &Context) -> Result<FileLock, JobEnd> {
    let name = context.models_dir.final_folder(&job.row)?;
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let path = context.models_dir.lock(&name);
    loop {
        let path = path.clone();
        let lock = job.blocking("locking the model", move || FileLock::try_acquire(&path)).await?;
        if let Some(lock) = lock {
            return Ok(lock);
        }
        job.reporter.stage(State::Resolving, "another process downloads this model: waiting for it");
        tokio::select! {
            biased;
            () = job.cancel.cancelled() => return Err(JobEnd::Cancelled),
            () = context.shutdown.cancelled() => return Err(JobEnd::Suspended),
            () = tokio::time::sleep(LOCK_POLL_INTERVAL) => {}
        }
    }
}

/// Sets the row to ERROR. The files stay for a retry, except on a full disk, which gets its room back.
async fn fail(mut job: JobState, context: &Context, error: ServiceError) {
    tracing::warn!(id = job.row.id, handle = job.row.handle, error = error.message, "download failed");
    if error.reason == Reason::InsufficientDisk {
        let incoming = context.models_dir.incoming(job.row.id);
        if let Err(error) = job.blocking("removing the files", move || incoming.remove()).await {
            tracing::warn!(error = error.message, "files were not removed");
        }
    }
    match context.catalog.fail_with_retry(&context.shutdown, job.row.id, &error).await {
        None => return,
        Some(Err(other)) => tracing::warn!(error = other.message, "row not written"),
        Some(Ok(_)) => {}
    }
    job.reporter.fail(&error);
}

/// Removes the files and the row of a cancelled download.
async fn clear(mut job: JobState, context: &Context) {
    let incoming = context.models_dir.incoming(job.row.id);
    let cancelled = incoming.clone();
    if let Err(error) = job.blocking("removing the files", move || cancelled.cancel()).await {
        tracing::warn!(error = error.message, "files were not removed");
    }
    match context.catalog.delete_with_retry(&context.shutdown, job.row.id).await {
        // The note in the folder makes the next start finish this.
        None => return,
        Some(Err(error)) => tracing::warn!(error = error.message, "row not deleted"),
        Some(Ok(())) => {}
    }
    if let Err(error) = job.blocking("removing the note", move || incoming.remove()).await {
        tracing::warn!(error = error.message, "the note of the cancel was not removed");
    }
    tracing::info!(id = job.row.id, handle = job.row.handle, "download cancelled");
    job.reporter.cancelled();
}
