//! Every combination of the three services' states: REST and the stream that the page follows give the word of the table.

use axum::body::Body;
use millm_api::Status;
use millm_proto::{
    catalog::v1::{Model, model},
    downloader::v1::{Download, download},
    gateway::v1::{
        self as wire, WatchModelsRequest, models_service_client::ModelsServiceClient,
        watch_models_response::Kind,
    },
    runtime::v1::{LoadState, LoadedModel},
};
use serde_json::json;
use tower::ServiceExt as _;

use super::fixture::Fixture;

/// A model for each combination: its row, its download and its load.
fn all() -> Vec<(Model, Option<Download>, Option<LoadedModel>)> {
    use model::State::{Deleting, Error, Pending, Ready, Unspecified};
    let downloads = std::iter::once(None).chain((0..=9).map(|n| Some(download::State::try_from(n).unwrap())));
    let loads = std::iter::once(None).chain((0..=5).map(|n| Some(LoadState::try_from(n).unwrap())));
    let mut all = Vec::new();
    for row in [Unspecified, Pending, Ready, Error, Deleting] {
        for download in downloads.clone() {
            for load in loads.clone() {
                let id = all.len() as i64 + 1;
                let handle = format!("m{id}");
                let name = format!("models/{id}");
                all.push((
                    Model { name, id, handle, state: row.into(), ..Model::default() },
                    download.map(|state| Download {
                        model_id: id,
                        state: state.into(),
                        ..Download::default()
                    }),
                    load.map(|state| LoadedModel {
                        model_id: id,
                        state: state.into(),
                        ..LoadedModel::default()
                    }),
                ));
            }
        }
    }
    all
}

#[tokio::test]
async fn rest_and_the_page_s_stream_give_the_same_word() {
    let all = all();
    let words: Vec<Status> =
        all.iter().map(|(row, download, load)| Status::of(row, download.as_ref(), load.as_ref())).collect();
    let fixture = Fixture::new().await;
    *fixture.stage.models.lock().unwrap() = all.iter().map(|(row, ..)| row.clone()).collect();
    *fixture.stage.downloads.lock().unwrap() =
        all.iter().filter_map(|(_, download, _)| download.clone()).collect();
    fixture.stage.status.lock().unwrap().models = all.iter().filter_map(|(.., load)| load.clone()).collect();

    let (status, answer) = fixture.get("/api/models").await;
    assert_eq!((status, answer["data"].as_array().unwrap().len()), (200, all.len()));
    for (model, word) in answer["data"].as_array().unwrap().iter().zip(&words) {
        assert_eq!(model["status"], json!(word), "{model}");
    }

    let routes = fixture.routes.clone().map_request(|mut request: axum::http::Request<tonic::body::Body>| {
        request.headers_mut().insert("host", "localhost:8000".parse().unwrap());
        request.map(Body::new)
    });
    let mut client = ModelsServiceClient::new(routes);
    let mut watch = client.watch_models(WatchModelsRequest {}).await.unwrap().into_inner();
    let mut told = Vec::new();
    loop {
        let change = watch.message().await.unwrap().expect("the snapshot is complete some time");
        if change.kind() == Kind::SnapshotComplete {
            break;
        }
        told.push((change.model.clone().unwrap().id, change.status(), change.failed_step()));
    }
    let expected: Vec<_> = all
        .iter()
        .zip(&words)
        .map(|((row, ..), word)| {
            let step = word.failed_step(row).map_or(wire::FailedStep::Unspecified, Into::into);
            (row.id, wire::Status::from(*word), step)
        })
        .collect();
    assert_eq!(told, expected);
}
