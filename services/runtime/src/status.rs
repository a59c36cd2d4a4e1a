//! The status of the runtime: devices, models and their requests, as one message.

use std::time::Duration;

use async_stream::stream;
use futures::Stream;
use millm_kit::Shutdown;
use millm_proto::runtime::v1::{self as proto, LoadProgress, LoadState, RuntimeStatus};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::loader::{Entry, LoadedModel, Loader, Phase};

/// The shortest time between two messages, and the interval of polling while a model loads or unloads.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// The interval at which the counters of watched models are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Changes of memory below this are not sent.
const MIN_MEMORY_CHANGE: i64 = 16 << 20;

/// Returns the present status.
pub(crate) fn snapshot(loader: &Loader) -> RuntimeStatus {
    let devices = &loader.options.devices;
    RuntimeStatus {
        devices: devices.all(),
        models: loader
            .models()
            .borrow()
            .iter()
            .map(|(id, entry)| model(*id, entry, devices.device.to_string()))
            .collect(),
        process_memory_bytes: devices.resident_bytes() as i64,
        loads_on_demand: loader.options.load_on_demand,
    }
}

/// Returns a stream of the present status and of each change. It ends when the server stops.
pub(crate) fn watch(loader: Loader, shutdown: Shutdown) -> impl Stream<Item = RuntimeStatus> + Send {
    stream! {
        let mut models = loader.models();
        let mut last: Option<RuntimeStatus> = None;
        let mut sent = Instant::now();
        while !shutdown.stopping.is_cancelled() {
            let in_transition = models.borrow_and_update().values().any(is_in_transition);
            let now = snapshot(&loader);
            if last.as_ref().is_none_or(|last| has_changed(last, &now)) {
                last = Some(now.clone());
                sent = Instant::now();
                yield now;
            }
            let interval = if in_transition { MIN_INTERVAL } else { POLL_INTERVAL };
            tokio::select! {
                changed = timeout(interval, models.changed()) => match changed {
                    // The loader has ended, so the server stops now or soon.
                    Ok(Err(_)) => sleep(interval).await,
                    Ok(Ok(())) | Err(_) => sleep_until(sent + MIN_INTERVAL).await,
                },
                () = shutdown.stopping.cancelled() => {}
            }
        }
    }
}

fn is_in_transition(entry: &Entry) -> bool {
    matches!(entry.phase, Phase::Loading(..) | Phase::Unloading(..))
}

fn has_changed(last: &RuntimeStatus, now: &RuntimeStatus) -> bool {
    let moved = |last: i64, now: i64| (last - now).abs() >= MIN_MEMORY_CHANGE;
    last.models != now.models
        || moved(last.process_memory_bytes, now.process_memory_bytes)
        || last.devices.len() != now.devices.len()
        || last.devices.iter().zip(&now.devices).any(|(last, now)| moved(last.used_bytes, now.used_bytes))
}

fn model(id: i64, entry: &Entry, device: String) -> proto::LoadedModel {
    let base =
        proto::LoadedModel { model_id: id, handle: entry.handle.clone(), device, ..Default::default() };
    match &entry.phase {
        Phase::Loading(progress, _) => {
            let progress = progress.borrow().clone();
            let estimated_memory_bytes =
                progress.estimate.as_ref().map_or(0, |estimate| estimate.total_bytes);
            let state = LoadState::Loading.into();
            proto::LoadedModel { state, progress: Some(progress), estimated_memory_bytes, ..base }
        }
        Phase::Failed(progress) => proto::LoadedModel {
            state: LoadState::Failed.into(),
            progress: Some(LoadProgress::clone(progress)),
            ..base
        },
        Phase::Loaded(model) => {
            proto::LoadedModel { state: LoadState::Loaded.into(), ..with_counters(model, base) }
        }
        Phase::Unloading(model, _) => {
            proto::LoadedModel { state: LoadState::Unloading.into(), ..with_counters(model, base) }
        }
    }
}

/// Adds the model's properties and the engine's counters.
fn with_counters(model: &LoadedModel, base: proto::LoadedModel) -> proto::LoadedModel {
    let stats = model.engine.stats();
    proto::LoadedModel {
        context_length: model.context_length,
        slots: model.slots,
        running_requests: stats.running as u32,
        waiting_requests: stats.waiting as u32,
        estimated_memory_bytes: model.estimate.total_bytes,
        measured_memory_bytes: model.memory.peak_bytes() as i64,
        load_time: Some(model.load_time.into()),
        forward_passes: stats.forward_passes,
        generated_tokens: stats.generated_tokens,
        prompt_tokens: stats.prompt_tokens,
        cached_tokens: stats.cached_tokens,
        draft_tokens: stats.draft_tokens,
        accepted_draft_tokens: stats.accepted_tokens,
        preemptions: stats.preemptions,
        last_used_time: model.requests.activity().last_used.map(Into::into),
        ..base
    }
}
