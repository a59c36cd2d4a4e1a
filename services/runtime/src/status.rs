//! What there is to see of the Runtime: devices, models and their requests, as one message.

use std::time::Duration;

use async_stream::stream;
use futures::Stream;
use millm_kit::Shutdown;
use millm_proto::runtime::v1::{LoadProgress, LoadState, LoadedModel, RuntimeStatus};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{
    devices::CPU,
    loader::{Entry, Loader, Phase, Resident},
};

/// At most one message in this time.
const APART: Duration = Duration::from_millis(50);
/// How often counters are looked at while somebody watches; closer while something is under way.
const LOOK: Duration = Duration::from_millis(250);
/// Less than this is no news about memory.
const MEMORY_STEP: i64 = 16 << 20;

pub fn now(loader: &Loader) -> RuntimeStatus {
    let devices = &loader.ground.devices;
    RuntimeStatus {
        devices: vec![devices.cpu()],
        models: loader.state().borrow().iter().map(|(id, entry)| model(*id, entry)).collect(),
        process_memory_bytes: devices.resident() as i64,
        loads_on_demand: loader.ground.on_demand,
    }
}

/// The present status first, then each change. Ends when the server does.
pub fn watch(loader: Loader, shutdown: Shutdown) -> impl Stream<Item = RuntimeStatus> + Send {
    stream! {
        let mut state = loader.state();
        let mut last: Option<RuntimeStatus> = None;
        let mut sent = Instant::now();
        while !shutdown.stopping.is_cancelled() {
            let busy = state.borrow_and_update().values().any(under_way);
            let now = now(&loader);
            if last.as_ref().is_none_or(|last| differ(last, &now)) {
                last = Some(now.clone());
                sent = Instant::now();
                yield now;
            }
            let look = if busy { APART } else { LOOK };
            tokio::select! {
                changed = timeout(look, state.changed()) => match changed {
                    // The owner has ended; stopping follows at once or has come.
                    Ok(Err(_)) => sleep(look).await,
                    Ok(Ok(())) | Err(_) => sleep_until(sent + APART).await,
                },
                () = shutdown.stopping.cancelled() => {}
            }
        }
    }
}

fn under_way(entry: &Entry) -> bool {
    matches!(entry.phase, Phase::Loading(..) | Phase::Unloading(..))
}

fn differ(last: &RuntimeStatus, now: &RuntimeStatus) -> bool {
    let moved = |last: i64, now: i64| (last - now).abs() >= MEMORY_STEP;
    last.models != now.models
        || moved(last.process_memory_bytes, now.process_memory_bytes)
        || last.devices.len() != now.devices.len()
        || last.devices.iter().zip(&now.devices).any(|(last, now)| moved(last.used_bytes, now.used_bytes))
}

fn model(id: i64, entry: &Entry) -> LoadedModel {
    let known = LoadedModel {
        model_id: id,
        handle: entry.handle.clone(),
        device: CPU.to_owned(),
        ..LoadedModel::default()
    };
    match &entry.phase {
        Phase::Loading(progress, _) => {
            let progress = progress.borrow().clone();
            let estimated_memory_bytes =
                progress.estimate.as_ref().map_or(0, |estimate| estimate.total_bytes);
            let state = LoadState::Loading.into();
            LoadedModel { state, progress: Some(progress), estimated_memory_bytes, ..known }
        }
        Phase::Failed(progress) => LoadedModel {
            state: LoadState::Failed.into(),
            progress: Some(LoadProgress::clone(progress)),
            ..known
        },
        Phase::Loaded(resident) => {
            LoadedModel { state: LoadState::Loaded.into(), ..running(resident, known) }
        }
        Phase::Unloading(resident, _) => {
            LoadedModel { state: LoadState::Unloading.into(), ..running(resident, known) }
        }
    }
}

fn running(resident: &Resident, known: LoadedModel) -> LoadedModel {
    let stats = resident.engine.stats();
    LoadedModel {
        context_length: resident.context_length,
        slots: resident.slots,
        running_requests: stats.running as u32,
        waiting_requests: stats.waiting as u32,
        estimated_memory_bytes: resident.estimate.total_bytes,
        measured_memory_bytes: resident.meter.peak_bytes() as i64,
        load_time: Some(resident.load_time.into()),
        forward_passes: stats.forward_passes,
        generated_tokens: stats.generated_tokens,
        prompt_tokens: stats.prompt_tokens,
        cached_tokens: stats.cached_tokens,
        guessed_tokens: stats.guessed_tokens,
        true_guesses: stats.true_guesses,
        preemptions: stats.preemptions,
        last_used_time: resident.requests.now().last_used.map(Into::into),
        ..known
    }
}
