//! The management REST API.

use axum::body::Body;
use http_body_util::BodyExt as _;
use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::{Architecture, Model, Quantization, Source, model},
    downloader::v1::{
        Download, FoundRepo, HubStatus, ModelPreview, QuantizationEstimate, SearchReposResponse, download,
        found_repo, hub_status, search_repos_request, start_download_request,
    },
    runtime::v1::{
        Device, LoadProgress, LoadState, LoadedModel, MemoryEstimate, RuntimeStatus, UnloadProgress,
    },
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::fixture::{Fixture, request, without_id};

fn row(id: i64, handle: &str, state: model::State) -> Model {
    Model {
        name: format!("models/{id}"),
        id,
        handle: handle.into(),
        source: Source::Huggingface.into(),
        repo_id: format!("owner/{handle}"),
        requested_quantization: Quantization::Q4.into(),
        parameter_count: 2_506_172_416,
        disk_size_bytes: 1_800_000_000,
        state: state.into(),
        ..Model::default()
    }
}

fn arriving(id: i64, state: download::State) -> Download {
    let name = format!("downloads/{id}");
    Download { name, model_id: id, state: state.into(), fraction: 0.5, ..Download::default() }
}

fn loaded(id: i64, state: LoadState) -> LoadedModel {
    LoadedModel { model_id: id, state: state.into(), ..LoadedModel::default() }
}

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    *fixture.stage.models.lock().unwrap() =
        vec![row(1, "a", model::State::Ready), row(2, "b", model::State::Pending)];
    *fixture.stage.downloads.lock().unwrap() = vec![arriving(2, download::State::Downloading)];
    fixture.stage.status.lock().unwrap().models = vec![loaded(1, LoadState::Loaded)];
    fixture
}

#[tokio::test]
async fn lists_join_what_three_services_know() {
    let fixture = fixture().await;
    let (status, answer) = fixture.get("/api/models").await;
    assert_eq!((status, &answer["success"], &answer["error"]), (200, &json!(true), &Value::Null));
    let models = answer["data"].as_array().unwrap();
    assert_eq!((&models[0]["status"], &models[1]["status"]), (&json!("loaded"), &json!("downloading")));
    assert_eq!((&models[1]["download_progress"], &models[0]["params"]), (&json!(50.0), &json!("2.5B")));
    assert_eq!((&models[0]["name"], &models[0]["quantization"]), (&json!("a"), &json!("Q4")));
    assert_eq!(models[0]["disk_size_mb"], 1800);
    assert_eq!(fixture.get("/api/models?status=loaded").await.1["data"].as_array().unwrap().len(), 1);
    for name in ["/api/models/b", "/api/models/2"] {
        assert_eq!(fixture.get(name).await.1["data"]["id"], 2);
    }
    let (status, answer) = fixture.get("/api/models/zzz").await;
    assert_eq!(status, 404);
    assert_eq!(
        without_id(answer),
        json!({"success": false, "data": null, "error":
            {"code": "MODEL_NOT_FOUND", "message": "Model not found: 'zzz'.", "details": {}}})
    );
}

#[tokio::test]
async fn downloads_start_and_are_cancelled_and_removed() {
    let fixture = fixture().await;
    let body =
        json!({"source": "huggingface", "repo_id": "owner/b", "quantization": "Q4", "hf_token": "hf_x"});
    let (status, answer) = fixture.call("POST", "/api/models", body).await;
    assert_eq!(
        (status, &answer["data"]["status"], &answer["data"]["id"]),
        (200, &json!("downloading"), &json!(2))
    );
    let started = fixture.stage.started.lock().unwrap().remove(0);
    let Some(start_download_request::Source::Hub(hub)) = started.source else { panic!() };
    assert_eq!((hub.repo_id.as_str(), hub.hf_token.as_str()), ("owner/b", "hf_x"));
    let nothing = json!({"success": true, "data": null, "error": null});
    assert_eq!(fixture.call("POST", "/api/models/2/cancel", json!({})).await, (200, nothing.clone()));
    assert_eq!(fixture.call("DELETE", "/api/models/a", json!({})).await, (200, nothing));
    assert_eq!(*fixture.stage.named.lock().unwrap(), ["2", "a"]);
    let (status, answer) =
        fixture.call("POST", "/api/models", json!({"repo_id": "a/b", "quantization": "Q9"})).await;
    assert_eq!((status, &answer["error"]["details"]["field"]), (400, &json!("quantization")));
}

#[tokio::test]
async fn models_are_renamed() {
    let fixture = fixture().await;
    let (status, answer) = fixture.call("PATCH", "/api/models/b", json!({"name": "new"})).await;
    assert_eq!((status, &answer["data"]["id"], &answer["data"]["name"]), (200, &json!(2), &json!("new")));
    assert_eq!(answer["data"]["status"], "downloading");
    assert_eq!(fixture.get("/api/models/new").await.1["data"]["id"], 2);
    for body in [json!({}), json!({"name": null}), json!({"name": 7})] {
        let (status, answer) = fixture.call("PATCH", "/api/models/new", body).await;
        assert_eq!((status, &answer["error"]["details"]["field"]), (400, &json!("name")));
    }
    assert_eq!(fixture.call("PATCH", "/api/models/zzz", json!({"name": "x"})).await.0, 404);
    let bad = ServiceError::invalid_argument("handle", "must be short");
    *fixture.stage.refusal.lock().unwrap() = Some(bad);
    let (status, answer) = fixture.call("PATCH", "/api/models/new", json!({"name": "a b"})).await;
    assert_eq!((status, &answer["error"]["details"]["field"]), (400, &json!("name")));
    assert_eq!(answer["error"]["message"], "'name' must be short.");
}

#[tokio::test]
async fn every_reason_has_its_status() {
    let fixture = fixture().await;
    for (error, status) in [
        (ServiceError::model_already_exists(7, "b", "Q4"), 409),
        (ServiceError::invalid_repo_id("x"), 400),
        (ServiceError::repo_not_found("a/b"), 404),
        (ServiceError::gated_no_token("a/b"), 401),
        (ServiceError::gated_no_access("a/b", "u"), 403),
        (ServiceError::download_failed("x"), 502),
        (ServiceError::insufficient_disk(9, 5), 507),
        (ServiceError::in_use("b"), 409),
        (ServiceError::service_unavailable("downloader"), 503),
    ] {
        *fixture.stage.refusal.lock().unwrap() = Some(error.clone());
        let (got, answer) = fixture.call("POST", "/api/models", json!({"repo_id": "a/b"})).await;
        assert_eq!((got, &answer["error"]["code"]), (status, &json!(error.reason.name())));
        assert_eq!(answer["error"]["message"], error.message);
    }
    *fixture.stage.refusal.lock().unwrap() = Some(ServiceError::insufficient_disk(9, 5));
    let (_, answer) = fixture.call("POST", "/api/models", json!({"repo_id": "a/b"})).await;
    assert_eq!(without_id(answer)["error"]["details"], json!({"available_bytes": 5, "required_bytes": 9}));
}

#[tokio::test]
async fn previews() {
    let fixture = fixture().await;
    let architecture = Architecture { name: "Gemma2ForCausalLM".into(), ..Architecture::default() };
    let estimate = QuantizationEstimate {
        quantization: Quantization::Q4.into(),
        disk_size_bytes: 1_800_000_000,
        memory_bytes: 2_000_000_000,
        peak_disk_bytes: 9,
        ..QuantizationEstimate::default()
    };
    *fixture.stage.preview.lock().unwrap() = ModelPreview {
        handle: "gemma-2-2b".into(),
        parameter_count: 2_506_172_416,
        architecture: Some(architecture),
        gated: true,
        supported: true,
        estimates: vec![estimate],
        ..ModelPreview::default()
    };
    let (status, answer) =
        fixture.call("POST", "/api/models/preview", json!({"repo_id": "g/gemma-2-2b"})).await;
    let data = &answer["data"];
    assert_eq!(status, 200);
    assert_eq!((&data["name"], &data["params"]), (&json!("gemma-2-2b"), &json!("2.5B")));
    assert_eq!((&data["architecture"], &data["is_gated"]), (&json!("Gemma2ForCausalLM"), &json!(true)));
    assert_eq!(data["requires_trust_remote_code"], false);
    assert_eq!(
        (&data["estimated_sizes"]["Q4"]["disk_mb"], &data["estimated_sizes"]["Q4"]["memory_mb"]),
        (&json!(1800), &json!(2000))
    );
    assert_eq!((&data["obstacles"], &data["available_disk_bytes"]), (&json!([]), &json!(0)));
    fixture.stage.preview.lock().unwrap().obstacles = vec![ServiceError::insufficient_disk(9, 5).to_rpc()];
    let body = json!({"repo_id": "g/gemma-2-2b", "quantization": "Q8", "trust_remote_code": true});
    let (_, answer) = fixture.call("POST", "/api/models/preview", body).await;
    assert_eq!(answer["data"]["obstacles"][0]["code"], "INSUFFICIENT_DISK");
    assert_eq!(fixture.call("POST", "/api/models/preview", json!({})).await.0, 400);
    let odd = json!({"repo_id": "g/gemma-2-2b", "quantization": "Q5"});
    assert_eq!(fixture.call("POST", "/api/models/preview", odd).await.0, 400);
}

#[tokio::test]
async fn searches() {
    let fixture = fixture().await;
    let repo = FoundRepo {
        repo_id: "g/gemma".into(),
        downloads: 7,
        gated: true,
        support: found_repo::Support::Supported.into(),
        ..FoundRepo::default()
    };
    *fixture.stage.found.lock().unwrap() = SearchReposResponse { repos: vec![repo, FoundRepo::default()] };
    let (status, answer) = fixture.get("/api/search?q=gem%20ma&author=g&sort=likes&limit=2").await;
    let found = &answer["data"];
    assert_eq!((status, &found[0]["repo_id"], &found[0]["downloads"]), (200, &json!("g/gemma"), &json!(7)));
    assert_eq!((&found[0]["is_gated"], &found[0]["supported"]), (&json!(true), &json!(true)));
    assert_eq!((&found[1]["supported"], &found[1]["pipeline_tag"]), (&Value::Null, &Value::Null));
    let asked = fixture.stage.searched.lock().unwrap().remove(0);
    assert_eq!((asked.query.as_str(), asked.author.as_str(), asked.limit), ("gem ma", "g", 2));
    assert_eq!(asked.sort(), search_repos_request::Sort::Likes);
    for (bad, field) in [("sort=size", "sort"), ("limit=many", "limit")] {
        let (status, answer) = fixture.get(&format!("/api/search?q=a&{bad}")).await;
        assert_eq!((status, &answer["error"]["details"]["field"]), (400, &json!(field)));
    }
}

#[tokio::test]
async fn loading_answers_with_the_new_state() {
    let fixture = fixture().await;
    fixture.stage.status.lock().unwrap().models.clear();
    let progress =
        |state: LoadState| LoadProgress { model_id: 1, state: state.into(), ..LoadProgress::default() };
    *fixture.stage.load.lock().unwrap() = vec![progress(LoadState::Loading), progress(LoadState::Loaded)];
    for body in [Body::empty(), Body::from("{}")] {
        let (status, _, bytes) = fixture
            .send(
                request("POST", "/api/models/a/load")
                    .header("content-type", "application/json")
                    .body(body)
                    .unwrap(),
            )
            .await;
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((status.as_u16(), &answer["data"]["status"]), (200, &json!("loading")));
    }
    let failed = LoadProgress {
        error: Some(ServiceError::load_out_of_memory().to_rpc()),
        ..progress(LoadState::Failed)
    };
    *fixture.stage.load.lock().unwrap() = vec![failed];
    let (status, answer) = fixture.call("POST", "/api/models/1/load", json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (500, &json!("MODEL_LOAD_FAILED")));
    let unloading =
        UnloadProgress { model_id: 1, state: LoadState::Unloading.into(), ..UnloadProgress::default() };
    *fixture.stage.unload.lock().unwrap() = vec![unloading];
    let (status, answer) = fixture.call("POST", "/api/models/1/unload", json!({})).await;
    assert_eq!((status, &answer["data"]["status"]), (200, &json!("unloading")));
    let unloaded =
        UnloadProgress { model_id: 1, state: LoadState::Unloaded.into(), ..UnloadProgress::default() };
    *fixture.stage.unload.lock().unwrap() = vec![unloaded];
    assert_eq!(fixture.call("POST", "/api/models/1/unload", json!({})).await.1["data"]["status"], "ready");
    *fixture.stage.refusal.lock().unwrap() = Some(ServiceError::not_loaded("a"));
    let (status, answer) = fixture.call("POST", "/api/models/1/unload", json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("MODEL_NOT_LOADED")));
}

#[tokio::test]
async fn memory_and_system() {
    let fixture = fixture().await;
    *fixture.stage.estimate.lock().unwrap() =
        MemoryEstimate { total_bytes: 2_000_000_000, warning: "tight".into(), ..MemoryEstimate::default() };
    let (_, answer) = fixture.get("/api/models/a/memory?context_length=512").await;
    assert_eq!((&answer["data"]["total_mb"], &answer["data"]["warning"]), (&json!(2000), &json!("tight")));
    assert_eq!(fixture.get("/api/models/a/memory?context_length=x").await.0, 400);
    let device = Device { id: "cpu".into(), total_bytes: 5, ..Device::default() };
    fixture.stage.status.lock().unwrap().devices = vec![device];
    *fixture.stage.hub.lock().unwrap() = HubStatus {
        host: "hub.example".into(),
        state: hub_status::State::HalfOpen.into(),
        consecutive_failures: 5,
        ..HubStatus::default()
    };
    let (_, answer) = fixture.get("/api/system").await;
    let hub = &answer["data"]["hub"];
    assert_eq!((&hub["host"], &hub["state"]), (&json!("hub.example"), &json!("half_open")));
    assert_eq!((&hub["consecutive_failures"], &hub["last_error"]), (&json!(5), &Value::Null));
    assert_eq!(
        (&answer["data"]["devices"][0]["id"], &answer["data"]["model_count"]),
        (&json!("cpu"), &json!(2))
    );
    assert_eq!(answer["data"]["cache_size_bytes"], 3_600_000_000_i64);
    let (_, answer) = fixture.get("/api/models/a/architecture").await;
    assert_eq!((&answer["data"]["name"], &answer["data"]["config"]), (&json!("a"), &Value::Null));
}

#[tokio::test]
async fn events_have_their_names_and_data() {
    let fixture = fixture().await;
    fixture.stage.downloads.lock().unwrap().push(arriving(9, download::State::Succeeded));
    fixture.stage.status.lock().unwrap().models.clear();
    let response = fixture
        .routes
        .clone()
        .oneshot(request("GET", "/api/events").body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut next = async || {
        let frame = body.frame().await?.unwrap().into_data().unwrap();
        let text = String::from_utf8(frame.to_vec()).unwrap();
        let (name, data) = text.strip_prefix("event: ").unwrap().trim_end().split_once("\ndata: ").unwrap();
        Some((name.to_owned(), serde_json::from_str::<Value>(data).unwrap()))
    };
    // Work that ended before the subscription sends no event.
    let (name, data) = next().await.unwrap();
    assert_eq!(
        (name.as_str(), &data["model_id"], &data["progress"]),
        ("model:download:progress", &json!(2), &json!(50.0))
    );
    fixture.stage.download_news.send(arriving(2, download::State::Succeeded)).unwrap();
    let (name, data) = next().await.unwrap();
    assert_eq!((name.as_str(), &data["model"]["name"]), ("model:download:complete", &json!("b")));
    let failed = Download {
        error: Some(ServiceError::insufficient_disk(9, 5).to_rpc()),
        ..arriving(2, download::State::Failed)
    };
    fixture.stage.download_news.send(failed).unwrap();
    let (name, data) = next().await.unwrap();
    assert_eq!(
        (name.as_str(), &data["error"]["code"]),
        ("model:download:error", &json!("INSUFFICIENT_DISK"))
    );
    while fixture.stage.status_news.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    let status = |state| RuntimeStatus { models: vec![loaded(2, state)], ..RuntimeStatus::default() };
    fixture.stage.status_news.send(status(LoadState::Loading)).unwrap();
    let mut names = Vec::new();
    while !names.contains(&"model:load:progress".to_owned()) {
        names.push(next().await.unwrap().0);
    }
    fixture.stage.status_news.send(status(LoadState::Loaded)).unwrap();
    let (name, data) = next().await.unwrap();
    assert_eq!((name.as_str(), &data["model"]["id"]), ("model:load:complete", &json!(2)));
    fixture.host.shutdown.stopping.cancel();
    assert!(next().await.is_none());
}
