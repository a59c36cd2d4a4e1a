//! One load: look at the checkpoint, make room, read the weights, hand the running engine over.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Instant, SystemTime},
};

use millm_engine::{Engine, EngineOptions, LoadStage};
use millm_kit::{ServiceError, Shutdown, panics};
use millm_model::Checkpoint;
use millm_proto::runtime::v1::{LoadProgress, LoadState, load_progress::Stage};
use millm_sandbox::Sandbox;
use tokio::sync::{oneshot, watch};

use super::{Loader, Outcome, Plan, Requests, Resident, admission::Seat, gone};
use crate::{
    estimate::{self, Opened},
    failure,
    language::Language,
};

/// Where the stages begin on the way from 0 to 1.
const READING: f64 = 0.05;
const WEIGHTS: f64 = 0.1;
const WARMING_UP: f64 = 0.95;

/// Reads a model into memory. Blocks.
pub type Read = fn(
    &Checkpoint,
    &Sandbox,
    &EngineOptions,
    &mut dyn FnMut(millm_engine::LoadProgress<'_>),
) -> Result<(Language, Engine), ServiceError>;

pub fn read(
    checkpoint: &Checkpoint,
    sandbox: &Sandbox,
    options: &EngineOptions,
    progress: &mut dyn FnMut(millm_engine::LoadProgress<'_>),
) -> Result<(Language, Engine), ServiceError> {
    let language = Language::open(checkpoint, sandbox)?;
    Ok((language, Engine::load(checkpoint, options, progress).map_err(failure::of_load)?))
}

pub struct Job {
    pub loader: Loader,
    pub plan: Plan,
    /// Those that wait for it.
    pub requests: Requests,
    /// This job is its only writer; the last value is written once.
    pub progress: watch::Sender<LoadProgress>,
    pub shutdown: Shutdown,
}

type Accepted = oneshot::Sender<Result<watch::Receiver<LoadProgress>, ServiceError>>;

impl Job {
    pub async fn run(self, accepted: Accepted) {
        let (id, handle) = (self.plan.model.id, &self.plan.model.handle);
        let (opened, leaving) = match self.prepare().await {
            Ok(prepared) => prepared,
            Err(error) => {
                tracing::warn!(model = %handle, reason = error.reason.name(), "not loaded: {error}");
                self.loader.commit(id, Outcome::Refused).await;
                let _ = accepted.send(Err(error));
                return;
            }
        };
        self.progress.send_modify(|progress| {
            let stage = if leaving.is_empty() { Stage::Reading } else { Stage::UnloadingPrevious };
            progress.stage = stage.into();
            progress.estimate = Some(opened.estimate.clone());
        });
        // Whoever asked may have left; the load goes on.
        let _ = accepted.send(Ok(self.progress.subscribe()));
        let ended = self.carry_out(opened, &leaving).await;
        let mut last = self.progress.borrow().clone();
        match ended {
            Ok(resident) => {
                last.state = LoadState::Loaded.into();
                last.stage = Stage::Done.into();
                last.fraction = 1.0;
                last.detail = String::new();
                self.loader.commit(id, Outcome::Loaded(Arc::new(resident))).await;
            }
            Err(error) => {
                tracing::error!(model = %handle, reason = error.reason.name(), "load failed: {error}");
                last.state = LoadState::Failed.into();
                last.error = Some(error.to_rpc());
                (self.loader.ground.give_back)();
                self.loader.commit(id, Outcome::Failed(Box::new(last.clone()))).await;
            }
        }
        self.progress.send_replace(last);
    }

    /// Whether it can be loaded, and who leaves for it; changes nothing.
    async fn prepare(&self) -> Result<(Opened, Vec<Seat>), ServiceError> {
        let Plan { model, context_length, allow_insufficient_memory, .. } = &self.plan;
        let ground = &self.loader.ground;
        let mut opened = estimate::open(model, ground, *context_length).await?;
        let room = self.loader.room(model.id, opened.estimate.total_bytes as u64);
        let available = room.available;
        opened.estimate = estimate::against(opened.estimate, available);
        if !opened.estimate.fits {
            let required = opened.estimate.total_bytes as u64;
            if !allow_insufficient_memory {
                return Err(ServiceError::insufficient_memory(required, available));
            }
            tracing::warn!(
                model = %model.handle, required_bytes = required, available_bytes = available,
                "loading although memory is short",
            );
        }
        Ok((opened, room.leaving))
    }

    async fn carry_out(&self, opened: Opened, leaving: &[Seat]) -> Result<Resident, ServiceError> {
        self.make_room(leaving).await?;
        let began = Instant::now();
        let model = &self.plan.model;
        let meter = self.loader.scale.meter(self.requests.clone());
        let Opened { checkpoint, options, context_length, estimate } = opened;
        let slots = options.slots as u32;
        advance(&self.progress, Stage::Reading, READING, "tokenizer");
        let (loaded, answer) = oneshot::channel::<Result<(Language, Engine), ServiceError>>();
        let progress = self.progress.clone();
        let (read, sandbox) = (self.loader.ground.read, self.loader.ground.sandbox.clone());
        // A plain thread: ending the process does not wait for it.
        let load = move || {
            let mut tell = |step: millm_engine::LoadProgress<'_>| {
                let within = f64::from(step.fraction) * (WARMING_UP - WEIGHTS);
                match step.stage {
                    LoadStage::Weights => {
                        let tensor = step.tensor.unwrap_or_default();
                        advance(&progress, Stage::LoadingWeights, WEIGHTS + within, tensor);
                    }
                    LoadStage::Cache | LoadStage::Ready => {
                        advance(&progress, Stage::WarmingUp, WARMING_UP, "");
                    }
                }
            };
            let loaded = catch_unwind(AssertUnwindSafe(|| read(&checkpoint, &sandbox, &options, &mut tell)));
            loaded.unwrap_or_else(|panic| {
                Err(ServiceError::load_failed(format!("reading it panicked: {}", panics::said(&*panic))))
            })
        };
        let thread = std::thread::Builder::new().name("millm-load".to_owned());
        // Nobody listens any more when the process is ending.
        let thread = thread.spawn(move || drop(loaded.send(load())));
        drop(thread.map_err(|error| ServiceError::load_failed(format!("no thread: {error}")))?);
        let (language, engine) = tokio::select! {
            answer = answer => answer.map_err(|_| ServiceError::load_failed("the loading thread died"))??,
            () = self.shutdown.stopping.cancelled() => return Err(gone()),
        };
        meter.moving(false);
        tracing::info!(
            model = %model.handle, context_length, slots,
            estimated_bytes = estimate.total_bytes, measured_peak_bytes = meter.peak_bytes(),
            weights_bytes = engine.weight_bytes(), seconds = began.elapsed().as_secs_f32(),
            "loaded",
        );
        Ok(Resident {
            id: model.id,
            handle: model.handle.clone(),
            engine,
            language: Arc::new(language),
            context_length,
            slots,
            speculate: self.loader.ground.speculate,
            estimate,
            load_time: SystemTime::now(),
            meter,
            requests: self.requests.clone(),
        })
    }

    async fn make_room(&self, leaving: &[Seat]) -> Result<(), ServiceError> {
        for Seat { id, handle, .. } in leaving {
            // It may have been unloaded meanwhile: all the better.
            let Ok(mut seen) = self.loader.unload((*id, handle.clone()), self.plan.drain).await else {
                continue;
            };
            loop {
                let now = seen.borrow_and_update().clone();
                if now.state() == LoadState::Unloaded {
                    break;
                }
                let detail = format!("{handle}: {} requests pending", now.pending_requests);
                advance(&self.progress, Stage::UnloadingPrevious, 0.0, &detail);
                if seen.changed().await.is_err() {
                    return Err(ServiceError::load_failed(format!("'{handle}' did not unload")));
                }
            }
        }
        Ok(())
    }
}

fn advance(progress: &watch::Sender<LoadProgress>, stage: Stage, fraction: f64, detail: &str) {
    progress.send_modify(|progress| {
        progress.stage = stage.into();
        progress.fraction = fraction.max(progress.fraction);
        detail.clone_into(&mut progress.detail);
    });
}
