//! `GET /api/events`: what goes on with models and extractions, as server-sent events. Each listener follows the Downloader
//! and the Runtime by watches of its own. When a service restarts, the watch is opened again.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::State,
    response::{
        IntoResponse as _, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use futures::{Stream, StreamExt as _, stream};
use millm_api::{
    Error,
    download::is_running,
    events::{Completed, Event, Failed},
    load::{LoadProgress, UnloadProgress},
};
use millm_kit::ServiceError;
use millm_proto::{
    downloader::v1::{Download, ListDownloadsRequest, WatchDownloadsRequest, download},
    runtime::v1::{self as runtime, LoadState, LoadedModel, RuntimeStatus, WatchStatusRequest},
};

use crate::{inspection::events as extractions, state::AppState};

/// Between two attempts to watch a service that is away.
const RETRY: Duration = Duration::from_secs(1);

/// Sends what goes on with models and extractions, as server-sent events.
#[utoipa::path(
    get,
    path = "/api/events",
    responses((status = 200, body = Event, content_type = "text/event-stream"))
)]
pub async fn follow(State(app): State<Arc<AppState>>) -> Response {
    let stopping = app.stopping.clone();
    let events = stream::select(downloads(app.clone()), loads(app.clone()));
    let events = stream::select(events, extractions::follow(app.clone()));
    let written = events
        .then(move |event| {
            let app = app.clone();
            async move { written(event, &app).await }
        })
        .take_until(stopping.cancelled_owned())
        .map(Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    ([("x-accel-buffering", "no")], Sse::new(written).keep_alive(keep_alive)).into_response()
}

async fn written(mut event: Event, app: &AppState) -> sse::Event {
    if let Some(completed) = event.completed_mut() {
        // None when the model is gone again already.
        completed.model = app.model(&format!("models/{}", completed.model_id)).await.ok().map(Box::new);
    }
    let data = serde_json::to_string(&event).expect("events have numbers and texts alone");
    sse::Event::default().event(event.name()).data(data)
}

const fn completed(model_id: i64) -> Completed {
    Completed { model_id, model: None }
}

fn failed(model_id: i64, error: &ServiceError) -> Failed {
    Failed { model_id, error: Error::from(error) }
}

fn downloads(app: Arc<AppState>) -> impl Stream<Item = Event> + Send {
    async_stream::stream! {
        // Endings before this listener came are not news.
        let mut ended = HashSet::new();
        let mut first = true;
        loop {
            if first && let Ok(list) = app.downloader().list_downloads(ListDownloadsRequest {}).await {
                ended.extend(list.into_inner().downloads.iter().filter_map(ending));
                first = false;
            }
            if let Ok(watch) = app.downloader().watch_downloads(WatchDownloadsRequest {}).await {
                let mut watch = watch.into_inner();
                while let Ok(Some(download)) = watch.message().await {
                    if let Some(ending) = ending(&download)
                        && !ended.insert(ending)
                    {
                        continue;
                    }
                    if let Some(event) = download_event(&download) {
                        yield event;
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Tells one ending of a download from another: model, state, seconds and nanoseconds.
type Ending = (i64, i32, i64, i32);

fn ending(download: &Download) -> Option<Ending> {
    let is_over = !is_running(download.state()) && download.state() != download::State::Unspecified;
    let time = download.end_time.unwrap_or_default();
    is_over.then_some((download.model_id, download.state, time.seconds, time.nanos))
}

fn download_event(download: &Download) -> Option<Event> {
    use download::State;
    let id = download.model_id;
    Some(match download.state() {
        State::Unspecified => return None,
        State::Succeeded => Event::DownloadComplete(completed(id)),
        State::Failed => {
            let unknown = || ServiceError::download_failed("for an unknown reason");
            let error = download.error.as_ref().map_or_else(unknown, ServiceError::from_rpc);
            Event::DownloadError(failed(id, &error))
        }
        State::Cancelled => Event::DownloadError(failed(id, &ServiceError::cancelled())),
        _ => Event::DownloadProgress(download.into()),
    })
}

fn loads(app: Arc<AppState>) -> impl Stream<Item = Event> + Send {
    async_stream::stream! {
        let mut seen = None;
        loop {
            if let Ok(watch) = app.runtime().watch_status(WatchStatusRequest {}).await {
                let mut watch = watch.into_inner();
                while let Ok(Some(status)) = watch.message().await {
                    for event in load_events(&mut seen, &status) {
                        yield event;
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Returns what is new in `status`; `seen` is what was known of each model, `None` before the first status.
fn load_events(seen: &mut Option<HashMap<i64, LoadedModel>>, status: &RuntimeStatus) -> Vec<Event> {
    let is_first = seen.is_none();
    let before = seen.take().unwrap_or_default();
    let mut events = Vec::new();
    for model in &status.models {
        let known = before.get(&model.model_id);
        let is_same_state = known.is_some_and(|known| known.state() == model.state());
        let id = model.model_id;
        match model.state() {
            LoadState::Loading if known.is_none_or(|known| known.progress != model.progress) => {
                events.push(Event::LoadProgress(load_progress(model)));
            }
            LoadState::Loaded if !is_same_state && !is_first => {
                events.push(Event::LoadComplete(completed(id)));
            }
            LoadState::Failed if !is_same_state && !is_first => {
                let error = model.progress.as_ref().and_then(|progress| progress.error.as_ref());
                let unknown = || ServiceError::load_failed("for an unknown reason");
                let error = error.map_or_else(unknown, ServiceError::from_rpc);
                events.push(Event::LoadError(failed(id, &error)));
            }
            LoadState::Unloading
                if known.is_none_or(|known| {
                    known.state() != model.state() || known.running_requests != model.running_requests
                }) =>
            {
                events.push(Event::UnloadProgress(unload_progress(model)));
            }
            _ => {}
        }
    }
    let now: HashMap<i64, LoadedModel> =
        status.models.iter().map(|model| (model.model_id, model.clone())).collect();
    let is_in_memory = |model: Option<&LoadedModel>| {
        model.is_some_and(|model| matches!(model.state(), LoadState::Loaded | LoadState::Unloading))
    };
    let mut gone: Vec<i64> = before
        .values()
        .filter(|m| is_in_memory(Some(m)) && !is_in_memory(now.get(&m.model_id)))
        .map(|m| m.model_id)
        .collect();
    gone.sort_unstable();
    events.extend(gone.into_iter().map(|id| Event::UnloadComplete(completed(id))));
    *seen = Some(now);
    events
}

fn load_progress(model: &LoadedModel) -> LoadProgress {
    LoadProgress::from(&runtime::LoadProgress {
        model_id: model.model_id,
        handle: model.handle.clone(),
        state: model.state,
        ..model.progress.clone().unwrap_or_default()
    })
}

fn unload_progress(model: &LoadedModel) -> UnloadProgress {
    UnloadProgress::from(&runtime::UnloadProgress {
        model_id: model.model_id,
        handle: model.handle.clone(),
        state: model.state,
        pending_requests: model.running_requests,
        freed_bytes: 0,
    })
}

#[cfg(test)]
mod tests {
    use millm_proto::runtime::v1::load_progress::Stage;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn downloads_become_events() {
        let mut download = Download {
            model_id: 7,
            state: download::State::Downloading.into(),
            fraction: 0.12345,
            downloaded_bytes: 10,
            total_bytes: 100,
            speed_bytes_per_second: 2_345_678,
            ..Download::default()
        };
        let told = |download: &Download| {
            let event = download_event(download).unwrap();
            (event.name(), serde_json::to_value(event).unwrap())
        };
        let (name, data): (_, Value) = told(&download);
        assert_eq!(name, "model:download:progress");
        assert_eq!((&data["progress"], &data["speed_mbps"]), (&json!(12.3), &json!(2.35)));
        assert_eq!((&data["stage"], &data["total_bytes"]), (&json!("downloading"), &json!(100)));
        assert_eq!(ending(&download), None);
        download.set_state(download::State::Failed);
        download.error = Some(ServiceError::repo_not_found("a/b").to_rpc());
        let (name, data) = told(&download);
        assert_eq!((name, &data["error"]["code"]), ("model:download:error", &json!("REPO_NOT_FOUND")));
        download.set_state(download::State::Cancelled);
        assert_eq!(told(&download).1["error"]["code"], "CANCELLED");
        download.set_state(download::State::Succeeded);
        assert!(download_event(&download).unwrap().completed_mut().is_some() && ending(&download).is_some());
    }

    #[test]
    fn loads_become_events() {
        let status = |state: LoadState, fraction: f64| {
            let progress =
                runtime::LoadProgress { stage: Stage::LoadingWeights.into(), fraction, ..Default::default() };
            let model = LoadedModel {
                model_id: 3,
                state: state.into(),
                progress: Some(progress),
                ..LoadedModel::default()
            };
            RuntimeStatus { models: vec![model], ..RuntimeStatus::default() }
        };
        let mut seen = None;
        let mut names = |status: RuntimeStatus| {
            load_events(&mut seen, &status).into_iter().map(|event| event.name()).collect::<Vec<_>>()
        };
        let nothing: [&str; 0] = [];
        assert_eq!(names(status(LoadState::Loaded, 1.0)), nothing);
        assert_eq!(names(status(LoadState::Unloading, 1.0)), ["model:unload:progress"]);
        assert_eq!(names(RuntimeStatus::default()), ["model:unload:complete"]);
        assert_eq!(names(status(LoadState::Loading, 0.1)), ["model:load:progress"]);
        assert_eq!(names(status(LoadState::Loading, 0.1)), nothing);
        assert_eq!(names(status(LoadState::Loading, 0.2)), ["model:load:progress"]);
        assert_eq!(names(status(LoadState::Loaded, 1.0)), ["model:load:complete"]);
        assert_eq!(names(status(LoadState::Failed, 1.0)), ["model:load:error", "model:unload:complete"]);
    }
}
