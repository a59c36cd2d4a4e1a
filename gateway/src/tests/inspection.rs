//! The management REST API for looking inside: layers, datasets, templates, extractions.

use axum::body::Body;
use http_body_util::BodyExt as _;
use millm_kit::{Channel, ServiceError};
use millm_proto::{
    catalog::v1::{
        ActivationType, Architecture, Dataset, DatasetColumn, ExtractionSettings, Template, dataset,
        dataset_column::Kind,
    },
    downloader::v1::{AddDatasetProgress, add_dataset_request},
    inspection::v1::{
        Extraction, ExtractionEstimate, HookPoint, LayerDescription, ModelDescription, ModuleDescription,
        Replay, TensorDescription, extraction::State, inspection_service_client::InspectionServiceClient,
    },
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use url::Url;

use super::fixture::{Fixture, request, without_id};

fn dataset(state: dataset::State) -> Dataset {
    let column = DatasetColumn { name: "text".into(), kind: Kind::Text.into() };
    Dataset {
        id: 3,
        handle: "wiki".into(),
        local_path: "/data/wiki.jsonl".into(),
        rows: 7,
        columns: vec![column],
        column: "text".into(),
        state: state.into(),
        ..Dataset::default()
    }
}

fn progress(state: dataset::State) -> AddDatasetProgress {
    AddDatasetProgress { dataset: Some(dataset(state)), ..AddDatasetProgress::default() }
}

fn template() -> Template {
    let settings = ExtractionSettings {
        points: vec!["residual".into()],
        layers: "0-3".into(),
        max_samples: 10,
        pack: true,
        ..ExtractionSettings::default()
    };
    Template {
        id: 4,
        handle: "mine".into(),
        settings: Some(settings),
        etag: "e1".into(),
        ..Template::default()
    }
}

fn extraction(id: &str, state: State) -> Extraction {
    Extraction {
        id: id.into(),
        state: state.into(),
        model_id: 1,
        model_handle: "tiny".into(),
        samples_done: 1,
        samples_total: 4,
        ..Extraction::default()
    }
}

#[tokio::test]
async fn layers() {
    let fixture = Fixture::new().await;
    let tensor = TensorDescription {
        name: "blk.0.attn_q.weight".into(),
        shape: vec![64, 64],
        dtype: "F32".into(),
        ..TensorDescription::default()
    };
    let point =
        HookPoint { name: "resid_post.0".into(), shape: vec![64], writable: true, ..HookPoint::default() };
    let module =
        ModuleDescription { name: "attn".into(), tensors: vec![tensor], ..ModuleDescription::default() };
    let layer = LayerDescription {
        attention: "attention".into(),
        modules: vec![module],
        hook_points: vec![point],
        ..LayerDescription::default()
    };
    *fixture.stage.inspection.description.lock().unwrap() = ModelDescription {
        model_id: 1,
        handle: "tiny".into(),
        architecture: Some(Architecture { layers: 1, ..Architecture::default() }),
        parameter_count: 4096,
        layers: vec![layer],
        config_json: "{\"a\": 1}".into(),
        ..ModelDescription::default()
    };
    let (status, answer) = fixture.get("/api/models/tiny/layers").await;
    let (data, layer) = (&answer["data"], &answer["data"]["layers"][0]);
    assert_eq!((status, &data["name"], &data["params"]), (200, &json!("tiny"), &json!("4.1K")));
    assert_eq!(layer["modules"][0]["tensors"][0]["shape"], json!([64, 64]));
    assert_eq!(
        (&layer["hook_points"][0]["transformer_lens"], &data["config"]["a"]),
        (&Value::Null, &json!(1))
    );
    assert_eq!(*fixture.stage.named.lock().unwrap(), ["tiny"]);
    *fixture.stage.refusal.lock().unwrap() = Some(ServiceError::not_ready("tiny", "is still downloading"));
    assert_eq!(fixture.get("/api/models/tiny/layers").await.0, 409);
}

#[tokio::test]
async fn local_datasets_are_read_before_the_answer() {
    let fixture = Fixture::new().await;
    let stage = &fixture.stage.inspection;
    *stage.adding.lock().unwrap() = vec![
        AddDatasetProgress::default(),
        progress(dataset::State::Pending),
        progress(dataset::State::Ready),
    ];
    let body = json!({"local_path": "/data/wiki.jsonl", "name": "wiki", "column": "text"});
    let (status, answer) = fixture.call("POST", "/api/datasets", body.clone()).await;
    assert_eq!(
        (status, &answer["data"]["state"], &answer["data"]["name"]),
        (200, &json!("ready"), &json!("wiki"))
    );
    assert_eq!(answer["data"]["columns"][0], json!({"name": "text", "kind": "text"}));
    let added = stage.added.lock().unwrap().remove(0);
    assert_eq!(added.source, Some(add_dataset_request::Source::LocalPath("/data/wiki.jsonl".into())));
    assert_eq!((added.handle.as_str(), added.column.as_str()), ("wiki", "text"));
    let failed = AddDatasetProgress {
        error: Some(ServiceError::invalid_dataset("wiki.jsonl, row 2", "is no JSON").to_rpc()),
        ..progress(dataset::State::Error)
    };
    stage.adding.lock().unwrap().push(failed);
    let (status, answer) = fixture.call("POST", "/api/datasets", body.clone()).await;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("INVALID_DATASET")));
    *fixture.stage.refusal.lock().unwrap() = Some(ServiceError::invalid_argument("handle", "must be short"));
    let (status, answer) = fixture.call("POST", "/api/datasets", body).await;
    assert_eq!((status, &answer["error"]["details"]["field"]), (400, &json!("name")));
}

#[tokio::test]
async fn datasets_of_the_hub_are_answered_at_once() {
    let fixture = Fixture::new().await;
    let stage = &fixture.stage.inspection;
    *stage.add_is_endless.lock().unwrap() = true;
    *stage.adding.lock().unwrap() = vec![AddDatasetProgress::default(), progress(dataset::State::Pending)];
    let body = json!({"repo_id": "owner/wiki", "split": "test", "hf_token": "hf_x"});
    let (status, answer) = fixture.call("POST", "/api/datasets", body).await;
    assert_eq!((status, &answer["data"]["state"]), (200, &json!("pending")));
    let Some(add_dataset_request::Source::Hub(hub)) = stage.added.lock().unwrap().remove(0).source else {
        panic!("not of the hub")
    };
    assert_eq!(
        (hub.repo_id.as_str(), hub.split.as_str(), hub.hf_token.as_str()),
        ("owner/wiki", "test", "hf_x")
    );
    // The task that reads the rest ends with the server.
    assert_eq!(fixture.host.tasks.len(), 1);
    fixture.host.shutdown.stopping.cancel();
    fixture.host.tasks.close();
    fixture.host.tasks.wait().await;
    let (status, answer) = fixture.call("POST", "/api/datasets", json!({})).await;
    assert_eq!((status, &answer["error"]["details"]["field"]), (400, &json!("repo_id")));
}

#[tokio::test]
async fn datasets_are_listed_shown_read_and_removed() {
    let fixture = Fixture::new().await;
    let other = Dataset { id: 5, handle: "other".into(), ..dataset(dataset::State::Error) };
    *fixture.stage.inspection.datasets.lock().unwrap() = vec![dataset(dataset::State::Ready), other];
    let (_, answer) = fixture.get("/api/datasets").await;
    let names: Vec<_> = answer["data"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["wiki", "other"]);
    for name in ["3", "wiki"] {
        assert_eq!(fixture.get(&format!("/api/datasets/{name}")).await.1["data"]["rows"], 7);
    }
    let (status, answer) = fixture.get("/api/datasets/zzz").await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("DATASET_NOT_FOUND")));
    let (status, answer) = fixture.get("/api/datasets/wiki/rows?offset=5&limit=50").await;
    assert_eq!(
        (status, &answer["data"]),
        (200, &json!({"offset": 5, "rows": [{"text": "row 5"}, {"text": "row 6"}]}))
    );
    let asked = fixture.stage.inspection.row_requests.lock().unwrap().remove(0);
    assert_eq!((asked.name.as_str(), asked.limit), ("wiki", 50));
    for (bad, field) in [("offset=-1", "offset"), ("limit=x", "limit")] {
        let (status, answer) = fixture.get(&format!("/api/datasets/wiki/rows?{bad}")).await;
        assert_eq!((status, &answer["error"]["details"]["field"]), (400, &json!(field)));
    }
    let nothing = json!({"success": true, "data": null, "error": null});
    assert_eq!(fixture.call("DELETE", "/api/datasets/wiki", json!({})).await, (200, nothing));
    assert_eq!(*fixture.stage.named.lock().unwrap(), ["wiki"]);
}

#[tokio::test]
async fn templates_are_created_changed_and_removed() {
    let fixture = Fixture::new().await;
    let stage = &fixture.stage.inspection;
    let body = json!({"name": "t", "settings": {"points": ["mlp"], "dtype": "bf16"}});
    let (status, answer) = fixture.call("POST", "/api/templates", body).await;
    let settings = &answer["data"]["settings"];
    assert_eq!((status, &settings["dtype"], &settings["layers"]), (200, &json!("bf16"), &json!("all")));
    for (bad, field) in [
        (json!({}), "settings"),
        (json!({"settings": {"dtype": "f64"}}), "settings.dtype"),
        (json!({"settings": {"batch_size": -1}}), "settings.batch_size"),
        (json!({"settings": {"points": "mlp"}}), "settings.points"),
    ] {
        let (status, answer) = fixture.call("POST", "/api/templates", bad).await;
        assert_eq!((status, &answer["error"]["details"]["field"]), (400, &json!(field)));
    }
    *stage.templates.lock().unwrap() = vec![template()];
    assert_eq!(fixture.get("/api/templates").await.1["data"][0]["name"], "mine");
    assert_eq!(fixture.get("/api/templates/4").await.1["data"]["settings"]["max_samples"], 10);

    let body = json!({"name": "yours", "settings": {"layers": "all"}});
    assert_eq!(fixture.call("PATCH", "/api/templates/mine", body).await.0, 200);
    let updated = stage.updated.lock().unwrap().remove(0);
    assert_eq!(updated.update_mask.unwrap().paths, ["handle", "settings"]);
    let changed = updated.template.unwrap();
    assert_eq!((changed.handle.as_str(), changed.etag.as_str()), ("yours", "e1"));
    let settings = changed.settings.unwrap();
    assert_eq!((settings.layers.as_str(), settings.max_samples, settings.pack), ("all", 10, true));
    let (status, answer) = fixture.call("PATCH", "/api/templates/mine", json!({"name": null})).await;
    assert_eq!((status, &answer["error"]["details"]["field"]), (400, &json!("body")));

    for (body, favorite) in [(json!({}), true), (json!({"favorite": false}), false)] {
        let (_, answer) = fixture.call("POST", "/api/templates/mine/favorite", body).await;
        assert_eq!(answer["data"]["favorite"], favorite);
        assert_eq!(stage.updated.lock().unwrap().remove(0).update_mask.unwrap().paths, ["favorite"]);
    }
    assert_eq!(fixture.call("DELETE", "/api/templates/mine", json!({})).await.0, 200);
    assert_eq!(*fixture.stage.named.lock().unwrap(), ["mine"]);
}

#[tokio::test]
async fn templates_are_imported_and_exported() {
    let fixture = Fixture::new().await;
    let stage = &fixture.stage.inspection;
    let export = request("GET", "/api/templates/export?ids=4,%20mine,").body(Body::empty()).unwrap();
    let (status, headers, document) = fixture.send(export).await;
    assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"application/json".parse().unwrap()));
    assert_eq!(headers["content-disposition"], "attachment; filename=\"templates.json\"");
    let document: Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(document["version"], 1);
    assert_eq!(*stage.exported.lock().unwrap(), [["4", "mine"]]);
    let (status, answer) = fixture.call("POST", "/api/templates/import", document.clone()).await;
    assert_eq!((status, &answer["data"]["created"][0]["name"]), (200, &json!("new")));
    assert_eq!(answer["data"]["skipped"], json!([{"name": "old", "reason": "the name is taken"}]));
    assert_eq!(*stage.imported.lock().unwrap(), [document.to_string()]);
    *fixture.stage.refusal.lock().unwrap() = Some(ServiceError::invalid_argument("json", "has version 2"));
    let (status, answer) = fixture.call("POST", "/api/templates/import", json!({"version": 2})).await;
    assert_eq!((status, &answer["error"]["message"]), (400, &json!("'body' has version 2.")));
    let large = json!({"templates": "x".repeat(4 << 20)});
    let (status, answer) = fixture.call("POST", "/api/templates/import", large).await;
    assert_eq!((status, &answer["error"]["details"]["field"]), (413, &json!("body")));
    assert_eq!(fixture.call("POST", "/api/templates/import", json!([])).await.0, 400);
}

#[tokio::test]
async fn extractions_start_from_templates_and_settings() {
    let fixture = Fixture::new().await;
    let stage = &fixture.stage.inspection;
    stage.templates.lock().unwrap().push(template());
    let body = json!({
        "dataset": "wiki", "column": "text", "template": "mine", "shard": {"index": 1, "count": 2},
        "settings": {"layers": "all", "dtype": "f16", "pack": false},
    });
    let (status, answer) = fixture.call("POST", "/api/models/tiny/extract", body.clone()).await;
    let data = &answer["data"];
    assert_eq!((status, &data["id"], &data["state"]), (200, &json!("new"), &json!("queued")));
    assert_eq!(
        (&data["shard"], &data["settings"]["max_samples"]),
        (&json!({"index": 1, "count": 2}), &json!(10))
    );
    let config = stage.configs.lock().unwrap().remove(0);
    assert_eq!(
        (config.model.as_str(), config.dataset.as_str(), config.column.as_str()),
        ("tiny", "wiki", "text")
    );
    let settings = config.settings.unwrap();
    assert_eq!(
        (settings.dtype(), settings.layers.as_str(), settings.pack),
        (ActivationType::F16, "all", false)
    );

    let obstacle = ServiceError::insufficient_disk(9, 5).to_rpc();
    let time = Some(prost_types::Duration { seconds: 4, nanos: 1 });
    *stage.estimate.lock().unwrap() =
        ExtractionEstimate { samples: 12, time, obstacles: vec![obstacle], ..ExtractionEstimate::default() };
    let (status, answer) = fixture.call("POST", "/api/models/tiny/extract/estimate", body).await;
    assert_eq!(
        (status, &answer["data"]["samples"], &answer["data"]["seconds"]),
        (200, &json!(12), &json!(5))
    );
    assert_eq!(answer["data"]["obstacles"][0]["code"], "INSUFFICIENT_DISK");
    for (bad, status) in [
        (json!({}), 400),
        (json!({"dataset": "wiki", "template": "zzz"}), 404),
        (json!({"dataset": "wiki", "shard": {"index": 2, "count": 2}}), 400),
    ] {
        assert_eq!(fixture.call("POST", "/api/models/tiny/extract", bad).await.0, status);
    }
    for (error, status) in [
        (ServiceError::hook_point_unknown("x", "tiny", "there is none", "mlp"), 400),
        (ServiceError::not_loaded("tiny"), 400),
        (ServiceError::dataset_not_ready("wiki", "it is being fetched"), 409),
        (ServiceError::invalid_dataset("a", "b"), 422),
        (ServiceError::insufficient_disk(9, 5), 507),
    ] {
        *fixture.stage.refusal.lock().unwrap() = Some(error.clone());
        let (got, answer) =
            fixture.call("POST", "/api/models/tiny/extract", json!({"dataset": "wiki"})).await;
        assert_eq!((got, &answer["error"]["code"]), (status, &json!(error.reason.name())));
    }
}

#[tokio::test]
async fn extractions_are_listed_and_steered() {
    let fixture = Fixture::new().await;
    let replay = Replay { file: "a.npy".into(), sample: 2, message: "differs".into(), ..Replay::default() };
    let other = Extraction {
        model_handle: "other".into(),
        replay: Some(replay),
        ..extraction("8", State::Succeeded)
    };
    *fixture.stage.inspection.extractions.lock().unwrap() = vec![extraction("7", State::Running), other];
    let (_, answer) = fixture.get("/api/extractions").await;
    assert_eq!((&answer["data"][0]["id"], &answer["data"][0]["progress"]), (&json!("7"), &json!(25.0)));
    assert_eq!(answer["data"][1]["replay"]["sample"], 2);
    let (_, answer) = fixture.get("/api/extractions?model=other").await;
    assert_eq!((answer["data"].as_array().unwrap().len(), &answer["data"][0]["id"]), (1, &json!("8")));
    assert_eq!(fixture.get("/api/extractions/7").await.1["data"]["state"], "running");
    for (call, state) in [("cancel", "cancelled"), ("resume", "running")] {
        let (status, answer) = fixture.call("POST", &format!("/api/extractions/7/{call}"), json!({})).await;
        assert_eq!((status, &answer["data"]["state"]), (200, &json!(state)));
    }
    let (_, answer) = fixture.call("POST", "/api/extractions/8/replay", json!({})).await;
    assert_eq!((&answer["data"]["id"], &answer["data"]["replay_of"]), (&json!("again"), &json!("8")));
    assert_eq!(fixture.call("DELETE", "/api/extractions/8", json!({})).await.0, 200);
    *fixture.stage.refusal.lock().unwrap() = Some(ServiceError::extraction_running("7"));
    let (status, answer) = fixture.call("DELETE", "/api/extractions/7", json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("EXTRACTION_RUNNING")));
    let (status, answer) = fixture.get("/api/extractions/9").await;
    assert_eq!(status, 404);
    assert_eq!(without_id(answer)["error"]["code"], "EXTRACTION_NOT_FOUND");
}

#[tokio::test]
async fn extractions_are_among_the_events() {
    let fixture = Fixture::new().await;
    let stage = &fixture.stage.inspection;
    *stage.extractions.lock().unwrap() =
        vec![extraction("1", State::Succeeded), extraction("2", State::Running)];
    let get = request("GET", "/api/events").body(Body::empty()).unwrap();
    let mut body = fixture.routes.clone().oneshot(get).await.unwrap().into_body();
    let mut next = async || {
        let frame = body.frame().await?.unwrap().into_data().unwrap();
        let text = String::from_utf8(frame.to_vec()).unwrap();
        let (name, data) = text.strip_prefix("event: ").unwrap().trim_end().split_once("\ndata: ").unwrap();
        Some((name.to_owned(), serde_json::from_str::<Value>(data).unwrap()))
    };
    // An extraction that ended before is no news.
    let (name, data) = next().await.unwrap();
    assert_eq!((name.as_str(), &data["extraction_id"]), ("extraction:progress", &json!("2")));
    stage.extraction_news.send(extraction("2", State::Failed)).unwrap();
    let (name, data) = next().await.unwrap();
    assert_eq!((name.as_str(), &data["error"]["code"]), ("extraction:error", &json!("EXTRACTION_FAILED")));
    stage.extraction_news.send(extraction("2", State::Succeeded)).unwrap();
    let (name, data) = next().await.unwrap();
    assert_eq!((name.as_str(), &data["extraction"]["id"]), ("extraction:complete", &json!("2")));
    fixture.host.shutdown.stopping.cancel();
    assert!(next().await.is_none());
}

#[tokio::test]
async fn the_services_are_on_the_same_port() {
    let fixture = Fixture::new().await;
    fixture.stage.inspection.extractions.lock().unwrap().push(extraction("7", State::Running));
    fixture.stage.inspection.datasets.lock().unwrap().push(dataset(dataset::State::Ready));
    fixture.stage.inspection.templates.lock().unwrap().push(template());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = fixture.host.shutdown.clone();
    let server = tokio::spawn(fixture.host.serve(listener, fixture.routes));
    let channel = Channel::remote(&Url::parse(&format!("http://{address}")).unwrap()).unwrap();

    use millm_proto::catalog::v1::{
        GetDatasetRequest, GetTemplateRequest, datasets_service_client::DatasetsServiceClient,
        templates_service_client::TemplatesServiceClient,
    };
    use millm_proto::inspection::v1::GetExtractionRequest;
    let name = || "7".to_owned();
    let mut inspection = InspectionServiceClient::new(channel.clone());
    let found = inspection.get_extraction(GetExtractionRequest { name: name() }).await.unwrap();
    assert_eq!(found.into_inner().state(), State::Running);
    let mut datasets = DatasetsServiceClient::new(channel.clone());
    let missing = datasets.get_dataset(GetDatasetRequest { name: name() }).await.unwrap_err();
    assert_eq!(ServiceError::from(missing).message, "Dataset not found: '7'.");
    let mut templates = TemplatesServiceClient::new(channel);
    let found = templates.get_template(GetTemplateRequest { name: "mine".into() }).await.unwrap();
    assert_eq!(found.into_inner().id, 4);

    shutdown.stopping.cancel();
    shutdown.forced.cancel();
    server.await.unwrap().unwrap();
}
