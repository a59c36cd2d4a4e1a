//! One download from its turn in the queue to its end: the only writer of its snapshot, and of its row's end.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use millm_kit::{Reason, Secret, ServiceError};
use millm_proto::{
    catalog::v1::{Model, Quantization},
    downloader::v1::download::State,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cache::Incoming,
    context::Context,
    describe::describe,
    error::{is_disk_full, of_disk},
    fetch,
    lock::Lock,
    meta::{self, Making, Meta, final_folder},
    progress::{Reporter, Shares},
    quantization,
    quantize::{self, Quantize},
    ready::{READY_FIELDS, ready_row},
    reuse,
};

/// What has to be done for one row.
#[derive(Debug)]
pub struct Job {
    pub row: Model,
    pub token: Option<Secret>,
    pub keep_source: bool,
    pub reporter: Reporter,
    /// Somebody cancelled.
    pub stop: CancellationToken,
}

/// Why a job did not succeed.
#[derive(Debug)]
pub enum Halt {
    Failed(ServiceError),
    Cancelled,
    /// The process ends; the next one goes on.
    Suspended,
}

impl From<ServiceError> for Halt {
    fn from(error: ServiceError) -> Self {
        Self::Failed(error)
    }
}

/// Between two looks at whether another process is done.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

impl Job {
    pub async fn run(mut self, context: &Context) {
        let end = self.work(context).await;
        match end {
            Ok(()) => {
                tracing::info!(id = self.row.id, handle = self.row.handle, "model ready");
                self.reporter.succeed();
            }
            Err(Halt::Failed(error)) => self.fail(context, error).await,
            Err(Halt::Cancelled) => self.clear(context).await,
            Err(Halt::Suspended) => tracing::info!(id = self.row.id, "download suspended"),
        }
    }

    async fn work(&mut self, context: &Context) -> Result<(), Halt> {
        let incoming = context.cache.incoming(self.row.id);
        if incoming.is_cancelled() {
            return Err(Halt::Cancelled);
        }
        let _lock = self.turn(context).await?;
        if let Some(folder) = self.finished_earlier(context).await? {
            return self.register(context, &folder).await;
        }
        if Meta::of(incoming.path()).is_none() {
            let stop = self.stop.clone();
            let writers = TaskTracker::new();
            let prepared = tokio::select! {
                biased;
                () = stop.cancelled() => Err(Halt::Cancelled),
                () = context.stopping.cancelled() => Err(Halt::Suspended),
                prepared = self.prepare(context, &incoming, &writers) => prepared.map_err(Halt::Failed),
            };
            // What was dropped above may still be writing.
            writers.close();
            writers.wait().await;
            prepared?;
        }
        // From here on there is no way back: a cancel that comes now has come too late.
        if self.stop.is_cancelled() {
            return Err(Halt::Cancelled);
        }
        let wanted = final_folder(&context.cache, &self.row)?;
        let (from, id) = (incoming.clone(), self.row.id);
        let folder =
            self.blocking("moving the model to its place", move || meta::place(&from, &wanted, id)).await?;
        self.register(context, &folder).await
    }

    /// Everything up to a sealed folder.
    async fn prepare(
        &mut self,
        context: &Context,
        incoming: &Incoming,
        writers: &TaskTracker,
    ) -> Result<(), ServiceError> {
        let making = if self.row.local_path.is_empty() {
            let (row, keep_source) = (&self.row, self.keep_source);
            match reuse::adopt_twin(context, row, keep_source, incoming, &mut self.reporter, writers).await? {
                Some(making) => making,
                None => self.prepare_hub(context, incoming, writers).await?,
            }
        } else {
            self.prepare_local(context, incoming, writers).await?
        };
        self.reporter.stage(State::Finalizing, "");
        let (incoming, row, cache) = (incoming.clone(), self.row.clone(), context.cache.clone());
        let sealed =
            writers.spawn_blocking(move || meta::seal(&incoming, &row, &making, cache.catalog())).await;
        let sealed = sealed.map_err(ServiceError::internal)?;
        sealed.map(drop).map_err(|error| of_disk(&self.row.handle, "sealing the model", &error))
    }

    async fn prepare_hub(
        &mut self,
        context: &Context,
        incoming: &Incoming,
        writers: &TaskTracker,
    ) -> Result<Making, ServiceError> {
        self.reporter.stage(State::Resolving, "");
        let plan = fetch::plan(context, &self.row, self.keep_source, self.token.as_ref(), incoming).await?;
        self.row.commit.clone_from(&plan.commit);
        let asked = self.row.requested_quantization();
        let scheme = quantization::scheme(asked).filter(|_| !plan.is_gguf);
        let made = incoming.path().join(quantize::FILE);
        if let Some(making) = Making::noted(incoming).filter(|_| made.is_file()) {
            fetch::clear_sources(&plan, incoming)
                .map_err(|error| of_disk(&plan.repo, "clearing the sources", &error))?;
            return Ok(making);
        }
        let shares = if scheme.is_some() { Shares::TRANSFER_AND_QUANTIZE } else { Shares::TRANSFER_ONLY };
        let reason = if plan.is_gguf { gguf_reason(asked) } else { String::new() };
        let mut making = Making::new(Quantization::Native, reason, plan.download_bytes());
        making.known = plan.files.iter().map(|file| (file.save_as.clone(), file.digest)).collect();
        reuse::adopt(context, &plan, incoming, &mut self.reporter, writers).await?;
        fetch::files(context, &plan, self.token.as_ref(), incoming, &mut self.reporter, shares, writers)
            .await?;
        self.reporter.stage(State::Verifying, "");
        if scheme.is_some() {
            // What a crash left of an earlier run must not pass for the model.
            crate::cache::absent_is_fine(std::fs::remove_file(&made))
                .map_err(|error| of_disk(&plan.repo, "removing an old file", &error))?;
        }
        let (path, name, workload) = (incoming.path().to_owned(), plan.repo.clone(), context.workload);
        let checked = writers.spawn_blocking(move || describe(&path, &name, workload)).await;
        checked.map_err(ServiceError::internal)??;
        let Some(scheme) = scheme else { return Ok(making) };
        let work = Quantize {
            source: incoming.path().to_owned(),
            folder: incoming.path().to_owned(),
            scheme,
            name: self.row.handle.clone(),
            threads: context.threads,
            origin: vec![("repo", plan.repo.clone()), ("commit", plan.commit.clone())],
        };
        let outcome = work.run(&mut self.reporter, writers).await?;
        making.quantized(quantization::of_scheme(outcome.actual), outcome.reason);
        if plan.keep_source {
            for (name, _) in &mut making.known {
                if plan.weights().any(|file| file.save_as == *name) {
                    *name = format!("{}/{name}", fetch::SOURCE_FOLDER);
                }
            }
        }
        let clear = || {
            making.note(incoming)?;
            fetch::clear_sources(&plan, incoming)
        };
        clear().map_err(|error| of_disk(&plan.repo, "clearing the sources", &error))?;
        Ok(making)
    }

    /// Quantizes a person's own model; nothing of theirs is touched.
    async fn prepare_local(
        &mut self,
        context: &Context,
        incoming: &Incoming,
        writers: &TaskTracker,
    ) -> Result<Making, ServiceError> {
        let source = PathBuf::from(&self.row.local_path);
        let asked = self.row.requested_quantization();
        let scheme = quantization::scheme(asked)
            .ok_or_else(|| ServiceError::internal("a local model kept as it is needs no job"))?;
        incoming.create().map_err(|error| of_disk(&self.row.handle, "making a folder", &error))?;
        self.reporter.without_transfer(Shares::QUANTIZE_ONLY);
        let work = Quantize {
            source: source.clone(),
            folder: incoming.path().to_owned(),
            scheme,
            name: self.row.handle.clone(),
            threads: context.threads,
            origin: vec![("path", self.row.local_path.clone())],
        };
        let outcome = work.run(&mut self.reporter, writers).await?;
        let to = incoming.path().to_owned();
        self.blocking("copying the tokenizer", move || quantize::copy_sidecars(&source, &to)).await?;
        let mut making = Making::new(Quantization::Native, String::new(), outcome.source_bytes);
        making.quantized(quantization::of_scheme(outcome.actual), outcome.reason);
        Ok(making)
    }

    /// Waits while another process makes the same model: what it has made is used then.
    async fn turn(&mut self, context: &Context) -> Result<Lock, Halt> {
        let name = final_folder(&context.cache, &self.row)?;
        let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = context.cache.lock(&name);
        loop {
            let path = path.clone();
            if let Some(lock) = self.blocking("locking the model", move || Lock::try_take(&path)).await? {
                return Ok(lock);
            }
            self.reporter.stage(State::Resolving, "another process is getting it: waiting for that");
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Halt::Cancelled),
                () = context.stopping.cancelled() => return Err(Halt::Suspended),
                // Locks tell nobody that they are free.
                () = tokio::time::sleep(LOCK_PAUSE) => {}
            }
        }
    }

    /// A crash between the last rename and the row.
    async fn finished_earlier(&self, context: &Context) -> Result<Option<PathBuf>, ServiceError> {
        let (cache, row) = (context.cache.clone(), self.row.clone());
        self.blocking("reading the models folder", move || meta::find_finished(&cache, &row)).await
    }

    /// The row becomes READY: the last step, repeated until the Catalog has heard it.
    async fn register(&mut self, context: &Context, folder: &Path) -> Result<(), Halt> {
        self.reporter.stage(State::Finalizing, "");
        let row = ready_row(context, &self.row, folder).await?;
        match context.registry.update_when_back(&context.stopping, &row, READY_FIELDS).await {
            None => Err(Halt::Suspended),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) if error.reason == Reason::ModelNotFound => {
                tracing::info!(id = self.row.id, "the model was removed from the catalogue while it came");
                let (cache, folder) = (context.cache.clone(), folder.to_owned());
                self.blocking("removing the model", move || cache.remove_finished(&folder)).await?;
                Err(Halt::Cancelled)
            }
            Some(Err(error)) => Err(Halt::Failed(error)),
        }
    }

    /// What is there stays for a retry; a full disk is given back its room.
    async fn fail(mut self, context: &Context, error: ServiceError) {
        tracing::warn!(id = self.row.id, handle = self.row.handle, error = error.message, "download failed");
        if error.reason == Reason::InsufficientDisk {
            let incoming = context.cache.incoming(self.row.id);
            if let Err(error) = self.blocking("clearing", move || incoming.remove()).await {
                tracing::warn!(error = error.message, "files were left");
            }
        }
        match context.registry.fail_when_back(&context.stopping, self.row.id, &error).await {
            None => return,
            Some(Err(other)) => tracing::warn!(error = other.message, "row not written"),
            Some(Ok(_)) => {}
        }
        self.reporter.fail(&error);
    }

    /// Cancelled: no files, no row.
    async fn clear(mut self, context: &Context) {
        let incoming = context.cache.incoming(self.row.id);
        let cleared = incoming.clone();
        if let Err(error) = self.blocking("clearing", move || cleared.cancel()).await {
            tracing::warn!(error = error.message, "files were left");
        }
        match context.registry.delete_when_back(&context.stopping, self.row.id).await {
            // The note in the folder finishes this at the next start.
            None => return,
            Some(Err(error)) => tracing::warn!(error = error.message, "row not deleted"),
            Some(Ok(())) => {}
        }
        if let Err(error) = self.blocking("clearing", move || incoming.remove()).await {
            tracing::warn!(error = error.message, "a note was left");
        }
        tracing::info!(id = self.row.id, handle = self.row.handle, "download cancelled");
        self.reporter.cancelled();
    }

    async fn blocking<T: Send + 'static>(
        &self,
        doing: &str,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let done = tokio::task::spawn_blocking(work).await.map_err(ServiceError::internal)?;
        done.map_err(|error| {
            if !is_disk_full(&error) {
                tracing::warn!(id = self.row.id, %error, doing, "disk error");
            }
            of_disk(&self.row.handle, doing, &error)
        })
    }
}

fn gguf_reason(asked: Quantization) -> String {
    match quantization::scheme(asked) {
        Some(_) => "the repository publishes GGUF, which is kept as it is".to_owned(),
        None => String::new(),
    }
}
