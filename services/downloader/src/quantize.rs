//! The quantize step: the model crate's work on a thread of its own, with progress, and stopped when dropped.

use std::{
    io,
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
use millm_proto::downloader::v1::download::State;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{error::of_model, progress::Reporter};

/// The quantized model's name in its folder.
pub const FILE: &str = "model.gguf";

/// Small files that make a folder browsable; what the model needs is inside the GGUF.
const SIDECARS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

#[derive(Debug)]
pub struct Quantize {
    /// A folder, or one GGUF file.
    pub source: PathBuf,
    /// Where `model.gguf` is to be.
    pub folder: PathBuf,
    pub scheme: Scheme,
    pub name: String,
    /// 0: one per core.
    pub threads: usize,
    /// Becomes `millm.source.*`.
    pub origin: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub struct Outcome {
    pub actual: Scheme,
    pub reason: Option<String>,
    pub source_bytes: u64,
}

impl Quantize {
    pub async fn run(self, reporter: &mut Reporter, threads: &TaskTracker) -> Result<Outcome, ServiceError> {
        reporter.stage(State::Quantizing, "");
        let (progress, mut changes) = watch::channel((0.0, String::new()));
        let cancel = CancelWhenDropped::default();
        let flag = Arc::clone(&cancel.0);
        let mut work = threads.spawn_blocking(move || self.work(&flag, &progress));
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

    fn work(
        &self,
        cancel: &AtomicBool,
        progress: &watch::Sender<(f64, String)>,
    ) -> Result<Outcome, ServiceError> {
        let failed = |error| of_model(&self.name, error);
        let source = Checkpoint::open(&self.source).map_err(failed)?;
        let extra: Vec<_> = self
            .origin
            .iter()
            .map(|(key, value)| (format!("millm.source.{key}"), Value::String(value.clone())))
            .collect();
        let beside = self.folder.join(".model.gguf.new");
        let request = Request { scheme: self.scheme, destination: &beside, name: &self.name, extra: &extra };
        let mut report = |at: Progress<'_>| {
            let done = at.done_bytes as f64 / at.total_bytes.max(1) as f64;
            progress.send_replace((done, format!("quantizing {}", at.tensor)));
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.map_err(ServiceError::internal)?;
        let outcome = pool.install(|| quantize(&source, &request, cancel, &mut report)).map_err(failed)?;
        let named = || -> io::Result<()> {
            std::fs::File::open(&beside)?.sync_all()?;
            std::fs::rename(&beside, self.folder.join(FILE))
        };
        named().map_err(|error| crate::error::of_disk(&self.name, "naming the quantized file", &error))?;
        Ok(Outcome { actual: outcome.actual, reason: outcome.reason, source_bytes: source.weights_bytes() })
    }
}

#[derive(Debug, Default)]
struct CancelWhenDropped(Arc<AtomicBool>);

impl Drop for CancelWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Copies the small files of a person's folder beside the model made from it.
pub fn copy_sidecars(source: &Path, folder: &Path) -> io::Result<()> {
    if !source.is_dir() {
        return Ok(());
    }
    for name in SIDECARS {
        let from = source.join(name);
        if from.is_file() {
            std::fs::copy(from, folder.join(name))?;
        }
    }
    Ok(())
}
