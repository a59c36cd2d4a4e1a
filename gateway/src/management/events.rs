//! `/api/events`: what happens, as server-sent events with the product documents' names and payloads.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use async_stream::stream;
use axum::{
    extract,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::Stream;
use millm_kit::{ServiceError, view};
use millm_proto::{
    catalog::v1::{GetModelRequest, Model},
    downloader::v1::{Download, WatchDownloadsRequest, download::State as D},
    runtime::v1::{LoadState, LoadedModel, RuntimeStatus, WatchStatusRequest, load_progress::Stage},
};
use serde_json::{Value, json};

use crate::{State, reply::error_json};

/// After a service went away: asked again so often, and no more.
const RETRY: Duration = Duration::from_millis(500);

pub async fn events(
    extract::State(state): extract::State<State>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let merged = futures::stream::select(Box::pin(downloads(state.clone())), Box::pin(loads(state)));
    Sse::new(merged).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

fn event(name: &str, data: &Value) -> Result<Event, Infallible> {
    Ok(Event::default().event(name).data(data.to_string()))
}

async fn model(state: &State, id: i64) -> Option<Model> {
    let request = GetModelRequest { name: format!("models/{id}") };
    state.catalog().get_model(request).await.ok().map(tonic::Response::into_inner)
}

/// Progress of each download, then its end, once. What had ended before the page came is not news.
fn downloads(state: State) -> impl Stream<Item = Result<Event, Infallible>> {
    stream! {
        let mut seen: HashMap<i64, D> = HashMap::new();
        loop {
            if let Ok(answer) = state.downloader().watch_downloads(WatchDownloadsRequest {}).await {
                let mut watch = answer.into_inner();
                while let Ok(Some(download)) = watch.message().await {
                    let before = seen.insert(download.model_id, download.state());
                    match download.state() {
                        D::Succeeded if before.is_some_and(|b| b != D::Succeeded) => {
                            if let Some(row) = model(&state, download.model_id).await {
                                let data = json!({ "model_id": row.id, "model": view::model(&row, Some(&download), None) });
                                yield event("model:download:complete", &data);
                            }
                        }
                        D::Failed | D::Cancelled if before.is_some_and(|b| b != download.state()) => {
                            yield event("model:download:error", &failed(&download));
                        }
                        D::Succeeded | D::Failed | D::Cancelled | D::Unspecified => {}
                        _ => yield event("model:download:progress", &progress(&download)),
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn progress(d: &Download) -> Value {
    json!({
        "model_id": d.model_id,
        "progress": (d.fraction * 1000.0).round() / 10.0,
        "bytes_downloaded": d.downloaded_bytes,
        "total_bytes": d.total_bytes,
        "speed_mbps": (d.speed_bytes_per_second as f64 / 1e4).round() / 100.0,
        "stage": view::download_state(d.state()),
        "seconds_left": d.seconds_left,
        "queue_position": d.queue_position,
        "retries": d.retries,
        "stalled": d.stalled,
    })
}

fn failed(d: &Download) -> Value {
    let error = d.error.as_ref().map_or_else(ServiceError::cancelled, ServiceError::from_rpc);
    json!({ "model_id": d.model_id, "error": error_json(&error) })
}

/// Load progress, and its end, once.
fn loads(state: State) -> impl Stream<Item = Result<Event, Infallible>> {
    stream! {
        let mut seen: HashMap<i64, LoadState> = HashMap::new();
        let mut first = true;
        loop {
            if let Ok(answer) = state.runtime().watch_status(WatchStatusRequest {}).await {
                let mut watch = answer.into_inner();
                while let Ok(Some(status)) = watch.message().await {
                    for loaded in &status.models {
                        let before = seen.insert(loaded.model_id, loaded.state());
                        match loaded.state() {
                            LoadState::Loading => yield event("model:load:progress", &loading(loaded)),
                            LoadState::Loaded if !first && before != Some(LoadState::Loaded) => {
                                if let Some(row) = model(&state, loaded.model_id).await {
                                    let data = json!({ "model_id": row.id, "model": view::model(&row, None, Some(loaded)) });
                                    yield event("model:load:complete", &data);
                                }
                            }
                            LoadState::Failed if !first && before != Some(LoadState::Failed) => {
                                yield event("model:load:error", &load_failed(loaded));
                            }
                            _ => {}
                        }
                    }
                    forget_gone(&mut seen, &status);
                    first = false;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn forget_gone(seen: &mut HashMap<i64, LoadState>, status: &RuntimeStatus) {
    seen.retain(|id, _| status.models.iter().any(|m| m.model_id == *id));
}

fn loading(loaded: &LoadedModel) -> Value {
    let progress = loaded.progress.clone().unwrap_or_default();
    let stage = match progress.stage() {
        Stage::UnloadingPrevious => "unloading_previous",
        Stage::WarmingUp | Stage::Done => "warming_up",
        Stage::Unspecified | Stage::Reading | Stage::LoadingWeights => "loading_weights",
    };
    json!({
        "model_id": loaded.model_id,
        "stage": stage,
        "progress": (progress.fraction * 1000.0).round() / 10.0,
    })
}

fn load_failed(loaded: &LoadedModel) -> Value {
    let error = loaded.progress.as_ref().and_then(|p| p.error.as_ref());
    let error = error.map_or_else(|| ServiceError::load_failed("unknown"), ServiceError::from_rpc);
    json!({ "model_id": loaded.model_id, "error": error_json(&error) })
}
