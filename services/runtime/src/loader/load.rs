//! The job of a load: examines the checkpoint, evicts models, reads the weights, and hands the engine over.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Instant, SystemTime},
};

use millm_engine::{Engine, LoadStage};
use millm_kit::{ServiceError, Shutdown, panics};
use millm_proto::runtime::v1::{LoadProgress, LoadState, load_progress::Stage};
use tokio::sync::{oneshot, watch};

use super::{
    admission::EvictionCandidate,
    command::{LoadRequest, LoadStarted, Outcome},
    handle::{Loader, stopped},
    loaded_model::LoadedModel,
    requests::RequestCounter,
};
use crate::{
    estimate::{self, OpenedModel},
    tokenizer_bundle::TokenizerBundle,
};

/// The progress, from 0 to 1, at which each stage begins.
const READING: f64 = 0.05;
const WEIGHTS: f64 = 0.1;
const WARMING_UP: f64 = 0.95;

/// The job of one load.
pub(super) struct LoadJob {
    pub loader: Loader,
    pub request: LoadRequest,
    /// Requests that wait for the model.
    pub requests: RequestCounter,
    /// Only this job writes the progress. A final value is written once.
    pub progress: watch::Sender<LoadProgress>,
    pub shutdown: Shutdown,
}

impl LoadJob {
    /// Runs the job. `started` gets the progress when the checkpoint has been examined, or the reason of a refusal.
    pub async fn run(self, started: oneshot::Sender<LoadStarted>) {
        let (id, handle) = (self.request.model.id, &self.request.model.handle);
        let (opened, evicted) = match self.prepare().await {
            Ok(prepared) => prepared,
            Err(error) => {
                tracing::warn!(model = %handle, reason = error.reason.name(), "load refused: {error}");
                self.loader.commit(id, Outcome::Refused).await;
                let _ = started.send(Err(error));
                return;
            }
        };
        self.progress.send_modify(|progress| {
            let stage = if evicted.is_empty() { Stage::Reading } else { Stage::UnloadingPrevious };
            progress.stage = stage.into();
            progress.estimate = Some(opened.estimate.clone());
        });
        // The load goes on even if its caller does not wait any more.
        let _ = started.send(Ok(self.progress.subscribe()));
        let result = self.load(opened, &evicted).await;
        let mut last = self.progress.borrow().clone();
        match result {
            Ok(model) => {
                last.state = LoadState::Loaded.into();
                last.stage = Stage::Done.into();
                last.fraction = 1.0;
                last.detail = String::new();
                self.loader.commit(id, Outcome::Loaded(Arc::new(model))).await;
            }
            Err(error) => {
                tracing::error!(model = %handle, reason = error.reason.name(), "load failed: {error}");
                last.state = LoadState::Failed.into();
                last.error = Some(error.to_rpc());
                (self.loader.options.release_memory)();
                self.loader.commit(id, Outcome::Failed(Box::new(last.clone()))).await;
            }
        }
        self.progress.send_replace(last);
    }

    /// Opens the checkpoint, checks the memory, and chooses the models to evict. Changes nothing.
    async fn prepare(&self) -> Result<(OpenedModel, Vec<EvictionCandidate>), ServiceError> {
        let LoadRequest { model, context_length, allow_insufficient_memory, .. } = &self.request;
        let mut opened = estimate::open(model, &self.loader.options, *context_length).await?;
        let eviction = self.loader.eviction(model.id, opened.estimate.total_bytes as u64);
        let available = eviction.available;
        opened.estimate = estimate::with_available(opened.estimate, available);
        if !opened.estimate.fits {
            let required = opened.estimate.total_bytes as u64;
            if !allow_insufficient_memory {
                return Err(ServiceError::insufficient_memory(required, available));
            }
            tracing::warn!(
                model = %model.handle, required_bytes = required, available_bytes = available,
                "loading although memory may be insufficient",
            );
        }
        Ok((opened, eviction.evicted))
    }

    /// Evicts models and loads this one.
    async fn load(
        &self,
        opened: OpenedModel,
        evicted: &[EvictionCandidate],
    ) -> Result<LoadedModel, ServiceError> {
        self.evict(evicted).await?;
        let start = Instant::now();
        let model = &self.request.model;
        let memory = self.loader.memory_meter.start(self.requests.clone());
        let OpenedModel { checkpoint, options, context_length, estimate } = opened;
        let slots = options.slots as u32;
        advance(&self.progress, Stage::Reading, READING, "tokenizer");
        let (loaded, result) = oneshot::channel::<Result<(TokenizerBundle, Engine), ServiceError>>();
        let progress = self.progress.clone();
        let (read_model, sandbox) = (self.loader.options.read_model, self.loader.options.sandbox.clone());
        // Not a blocking task of tokio: the process must not wait for it when it ends.
        let load = move || {
            let mut report = |step: millm_engine::LoadProgress<'_>| {
                let weights = f64::from(step.fraction) * (WARMING_UP - WEIGHTS);
                match step.stage {
                    LoadStage::Weights => {
                        let tensor = step.tensor.unwrap_or_default();
                        advance(&progress, Stage::LoadingWeights, WEIGHTS + weights, tensor);
                    }
                    LoadStage::Cache | LoadStage::Ready => {
                        advance(&progress, Stage::WarmingUp, WARMING_UP, "");
                    }
                }
            };
            let loaded =
                catch_unwind(AssertUnwindSafe(|| read_model(&checkpoint, &sandbox, &options, &mut report)));
            loaded.unwrap_or_else(|panic| {
                Err(ServiceError::load_failed(format!("the loader panicked: {}", panics::message(&*panic))))
            })
        };
        let thread = std::thread::Builder::new().name("millm-load".to_owned());
        // Fails if the process is ending, when nobody waits for the result.
        let thread = thread.spawn(move || drop(loaded.send(load())));
        drop(thread.map_err(|error| ServiceError::load_failed(format!("cannot start a thread: {error}")))?);
        let (tokenizer, engine) = tokio::select! {
            result = result => result.map_err(|_| ServiceError::load_failed("the load's thread died"))??,
            () = self.shutdown.stopping.cancelled() => return Err(stopped()),
        };
        memory.set_in_transition(false);
        tracing::info!(
            model = %model.handle, context_length, slots,
            estimated_bytes = estimate.total_bytes, measured_peak_bytes = memory.peak_bytes(),
            weights_bytes = engine.weight_bytes(), seconds = start.elapsed().as_secs_f32(),
            "loaded",
        );
        Ok(LoadedModel {
            id: model.id,
            handle: model.handle.clone(),
            engine,
            tokenizer: Arc::new(tokenizer),
            context_length,
            slots,
            max_draft_tokens: self.loader.options.max_draft_tokens,
            estimate,
            load_time: SystemTime::now(),
            memory,
            requests: self.requests.clone(),
        })
    }

    /// Unloads the models and waits for it.
    async fn evict(&self, evicted: &[EvictionCandidate]) -> Result<(), ServiceError> {
        for EvictionCandidate { id, handle, .. } in evicted {
            // Fails if the model has been unloaded in the meantime, which is as good.
            let Ok(mut progress) = self.loader.unload(*id, handle.clone(), self.request.drain).await else {
                continue;
            };
            loop {
                let now = progress.borrow_and_update().clone();
                if now.state() == LoadState::Unloaded {
                    break;
                }
                let detail = format!("{handle}: {} requests pending", now.pending_requests);
                advance(&self.progress, Stage::UnloadingPrevious, 0.0, &detail);
                if progress.changed().await.is_err() {
                    return Err(ServiceError::load_failed(format!("'{handle}' did not unload")));
                }
            }
        }
        Ok(())
    }
}

/// Reports progress, which never goes back.
fn advance(progress: &watch::Sender<LoadProgress>, stage: Stage, fraction: f64, detail: &str) {
    progress.send_modify(|progress| {
        progress.stage = stage.into();
        progress.fraction = fraction.max(progress.fraction);
        detail.clone_into(&mut progress.detail);
    });
}
