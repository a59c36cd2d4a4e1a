//! `GET /api/events`: the seeds' Socket.IO events as server-sent events. Each listener follows the Downloader and
//! the Runtime by watches of its own; when a service restarts, the watch is opened again.

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
        sse::{Event, KeepAlive},
    },
};
use futures::{Stream, StreamExt as _, stream};
use millm_kit::{ServiceError, view};
use millm_proto::{
    downloader::v1::{Download, ListDownloadsRequest, WatchDownloadsRequest, download},
    runtime::v1::{LoadState, LoadedModel, RuntimeStatus, WatchStatusRequest, load_progress::Stage},
};
use serde_json::{Value, json};

use crate::{app::App, failure::error_value};

const AGAIN: Duration = Duration::from_secs(1);

pub async fn follow(State(app): State<Arc<App>>) -> Response {
    let stopping = app.stopping.clone();
    let notes = stream::select(downloads(app.clone()), loads(app.clone()));
    let events = notes
        .then(move |note| {
            let app = app.clone();
            async move { Ok::<_, Infallible>(note.into_event(&app).await) }
        })
        .take_until(stopping.cancelled_owned());
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    ([("x-accel-buffering", "no")], Sse::new(events).keep_alive(keep_alive)).into_response()
}

/// An event before it is written.
#[derive(Debug, Clone, PartialEq)]
struct Note {
    name: &'static str,
    model_id: i64,
    data: Value,
    /// Whether the model itself belongs to it.
    with_model: bool,
}

impl Note {
    fn new(name: &'static str, model_id: i64, data: Value) -> Self {
        Self { name, model_id, data, with_model: false }
    }

    fn complete(name: &'static str, model_id: i64) -> Self {
        Self { name, model_id, data: json!({"model_id": model_id}), with_model: true }
    }

    async fn into_event(mut self, app: &App) -> Event {
        if self.with_model {
            // Gone again already: the event stands without.
            let model = app.view(&format!("models/{}", self.model_id)).await.ok();
            self.data["model"] = json!(model);
        }
        Event::default().event(self.name).data(self.data.to_string())
    }
}

fn downloads(app: Arc<App>) -> impl Stream<Item = Note> + Send {
    async_stream::stream! {
        // What ended before this listener came is no news to it.
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
                    if let Some(note) = download_note(&download) {
                        yield note;
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// What tells one ending of a download from another: model, state, seconds and nanoseconds.
type Ending = (i64, i32, i64, i32);

fn ending(download: &Download) -> Option<Ending> {
    use download::State;
    let over = matches!(download.state(), State::Succeeded | State::Failed | State::Cancelled);
    let time = download.end_time.unwrap_or_default();
    over.then_some((download.model_id, download.state, time.seconds, time.nanos))
}

fn download_note(download: &Download) -> Option<Note> {
    use download::State;
    let id = download.model_id;
    let failed = |error: &ServiceError| {
        let mut data = json!({"model_id": id});
        data["error"] = error_value(error);
        Note::new("model:download:error", id, data)
    };
    Some(match download.state() {
        State::Unspecified => return None,
        State::Succeeded => Note::complete("model:download:complete", id),
        State::Failed => {
            let unknown = || ServiceError::download_failed("for an unknown reason");
            failed(&download.error.as_ref().map_or_else(unknown, ServiceError::from_rpc))
        }
        State::Cancelled => failed(&ServiceError::cancelled()),
        state => Note::new(
            "model:download:progress",
            id,
            json!({
                "model_id": id,
                "progress": percent(download.fraction),
                "bytes_downloaded": download.downloaded_bytes,
                "total_bytes": download.total_bytes,
                // Megabytes, as people read download speeds.
                "speed_mbps": (download.speed_bytes_per_second as f64 / 10_000.0).round() / 100.0,
                "stage": view::download_state(state),
                "detail": download.detail,
                "seconds_left": (download.seconds_left > 0).then_some(download.seconds_left),
                "queue_position": (download.queue_position > 0).then_some(download.queue_position),
                "retries": download.retries,
                "stalled": download.stalled,
            }),
        ),
    })
}

fn loads(app: Arc<App>) -> impl Stream<Item = Note> + Send {
    async_stream::stream! {
        let mut seen = None;
        loop {
            if let Ok(watch) = app.runtime().watch_status(WatchStatusRequest {}).await {
                let mut watch = watch.into_inner();
                while let Ok(Some(status)) = watch.message().await {
                    for note in load_notes(&mut seen, &status) {
                        yield note;
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// What is new in `status`; `seen` is what was known of each model, `None` before the first status.
fn load_notes(seen: &mut Option<HashMap<i64, LoadedModel>>, status: &RuntimeStatus) -> Vec<Note> {
    let first = seen.is_none();
    let before = seen.take().unwrap_or_default();
    let mut notes = Vec::new();
    for model in &status.models {
        let known = before.get(&model.model_id);
        let same_state = known.is_some_and(|known| known.state() == model.state());
        let id = model.model_id;
        match model.state() {
            LoadState::Loading if known.is_none_or(|known| known.progress != model.progress) => {
                notes.push(load_progress(model));
            }
            LoadState::Loaded if !same_state && !first => {
                notes.push(Note::complete("model:load:complete", id));
            }
            LoadState::Failed if !same_state && !first => {
                let error = model.progress.as_ref().and_then(|progress| progress.error.as_ref());
                let unknown = || ServiceError::load_failed("for an unknown reason");
                let error = error.map_or_else(unknown, ServiceError::from_rpc);
                let data = json!({"model_id": id, "error": error_value(&error)});
                notes.push(Note::new("model:load:error", id, data));
            }
            LoadState::Unloading
                if known.is_none_or(|known| {
                    known.state() != model.state() || known.running_requests != model.running_requests
                }) =>
            {
                let data = json!({"model_id": id, "pending_requests": model.running_requests});
                notes.push(Note::new("model:unload:progress", id, data));
            }
            _ => {}
        }
    }
    let now: HashMap<i64, LoadedModel> =
        status.models.iter().map(|model| (model.model_id, model.clone())).collect();
    let is_in = |model: Option<&LoadedModel>| {
        model.is_some_and(|model| matches!(model.state(), LoadState::Loaded | LoadState::Unloading))
    };
    let mut gone: Vec<i64> = before
        .values()
        .filter(|m| is_in(Some(m)) && !is_in(now.get(&m.model_id)))
        .map(|m| m.model_id)
        .collect();
    gone.sort_unstable();
    notes.extend(gone.into_iter().map(|id| Note::complete("model:unload:complete", id)));
    *seen = Some(now);
    notes
}

fn load_progress(model: &LoadedModel) -> Note {
    let progress = model.progress.clone().unwrap_or_default();
    let stage = match progress.stage() {
        Stage::Unspecified => "",
        Stage::UnloadingPrevious => "unloading_previous",
        Stage::Reading => "reading",
        Stage::LoadingWeights => "loading_weights",
        Stage::WarmingUp => "warming_up",
        Stage::Done => "done",
    };
    let data = json!({
        "model_id": model.model_id,
        "stage": stage,
        "progress": percent(progress.fraction),
        "detail": progress.detail,
    });
    Note::new("model:load:progress", model.model_id, data)
}

/// 0 to 100 with one digit.
fn percent(fraction: f64) -> f64 {
    (fraction.clamp(0.0, 1.0) * 1000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use millm_proto::runtime::v1::LoadProgress;

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
        let note = download_note(&download).unwrap();
        assert_eq!(note.name, "model:download:progress");
        assert_eq!((&note.data["progress"], &note.data["speed_mbps"]), (&json!(12.3), &json!(2.35)));
        assert_eq!((&note.data["stage"], &note.data["total_bytes"]), (&json!("downloading"), &json!(100)));
        assert_eq!(ending(&download), None);
        download.set_state(download::State::Failed);
        download.error = Some(ServiceError::repo_not_found("a/b").to_rpc());
        let note = download_note(&download).unwrap();
        assert_eq!(
            (note.name, &note.data["error"]["code"]),
            ("model:download:error", &json!("REPO_NOT_FOUND"))
        );
        download.set_state(download::State::Cancelled);
        assert_eq!(download_note(&download).unwrap().data["error"]["code"], "CANCELLED");
        download.set_state(download::State::Succeeded);
        assert!(download_note(&download).unwrap().with_model && ending(&download).is_some());
    }

    #[test]
    fn loads_become_events() {
        let status = |state: LoadState, fraction: f64| {
            let progress =
                LoadProgress { stage: Stage::LoadingWeights.into(), fraction, ..LoadProgress::default() };
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
            load_notes(&mut seen, &status).into_iter().map(|note| note.name).collect::<Vec<_>>()
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
