//! `/api/models`: list, get, download or register, cancel, delete.

use std::{collections::HashMap, sync::Arc};

use axum::extract::{Path, Query, Request, State};
use millm_kit::{
    ServiceError,
    view::{self, ArchitectureView, ModelView},
};
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{
        CancelDownloadRequest, HubSource, RemoveModelRequest, StartDownloadRequest,
        start_download_request::Source,
    },
};
use serde::Serialize;
use serde_json::Value;

use super::{Answer, success};
use crate::{
    app::{App, from_downloader},
    body::Fields,
};

/// `?q=` restricts to handles, repositories, paths and architectures that hold it; `?status=` to a status.
pub async fn list(State(app): State<Arc<App>>, Query(query): Query<HashMap<String, String>>) -> Answer {
    let text = query.get("q").map_or("", String::as_str);
    let (models, facts) = futures::join!(app.models(text), app.facts());
    let mut views: Vec<ModelView> = models?.iter().map(|model| facts.view(model)).collect();
    if let Some(status) = query.get("status") {
        views.retain(|view| view.status == status);
    }
    Ok(success(views))
}

pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    Ok(success(app.view(&id).await?))
}

/// Starts a download, or registers what lies on this machine.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Answer {
    let mut fields = Fields::read(request).await?;
    let start = start_request(&mut fields)?;
    let download = app.downloader().start_download(start).await.map_err(from_downloader)?.into_inner();
    let (model, mut facts) = futures::join!(app.model(&download.name), app.facts());
    // What was answered is newer than nothing, and the list may be newer than it.
    facts.downloads.entry(download.model_id).or_insert(download);
    Ok(success(facts.view(&model?)))
}

fn start_request(fields: &mut Fields) -> Result<StartDownloadRequest, ServiceError> {
    let repo_id: Option<String> = fields.take("repo_id")?;
    let local_path: Option<String> = fields.take("local_path")?;
    let given: Option<String> = fields.take("source")?;
    let kind = given.as_deref().unwrap_or(if local_path.is_some() { "local" } else { "huggingface" });
    let missing = |field| ServiceError::invalid_argument(field, "must be given");
    let source = match kind {
        "huggingface" => Source::Hub(HubSource {
            repo_id: repo_id.ok_or_else(|| missing("repo_id"))?,
            revision: fields.take("revision")?.unwrap_or_default(),
            hf_token: fields.take("hf_token")?.unwrap_or_default(),
            file: fields.take("file")?.unwrap_or_default(),
            variant: fields.take("variant")?.unwrap_or_default(),
            subfolder: fields.take("subfolder")?.unwrap_or_default(),
        }),
        "local" => Source::LocalPath(local_path.ok_or_else(|| missing("local_path"))?),
        _ => return Err(ServiceError::invalid_argument("source", "must be 'huggingface' or 'local'")),
    };
    let quantization = match fields.take::<String>("quantization")? {
        Some(text) => view::parse_quantization(&text)?,
        None => Quantization::Unspecified,
    };
    Ok(StartDownloadRequest {
        source: Some(source),
        quantization: quantization.into(),
        handle: fields.take("custom_name")?.unwrap_or_default(),
        trust_remote_code: fields.take("trust_remote_code")?.unwrap_or(false),
        keep_source: fields.take("keep_source")?.unwrap_or(false),
    })
}

pub async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let request = CancelDownloadRequest { name: id };
    app.downloader().cancel_download(request).await.map_err(from_downloader)?;
    Ok(success(Value::Null))
}

pub async fn remove(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let request = RemoveModelRequest { name: id };
    app.downloader().remove_model(request).await.map_err(from_downloader)?;
    Ok(success(Value::Null))
}

#[derive(Serialize)]
struct Anatomy {
    id: i64,
    name: String,
    architecture: Option<ArchitectureView>,
    parameter_count: i64,
    /// config.json as published; null when there is none (a GGUF file).
    config: Value,
}

pub async fn architecture(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let model = app.model(&id).await?;
    Ok(success(Anatomy {
        id: model.id,
        architecture: model.architecture.as_ref().map(ArchitectureView::from),
        parameter_count: model.parameter_count,
        config: serde_json::from_str(&model.config_json).unwrap_or(Value::Null),
        name: model.handle,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<StartDownloadRequest, ServiceError> {
        start_request(&mut Fields::parse(value.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn requests_are_read() {
        let request = read(&json!({
            "source": "huggingface", "repo_id": "a/b", "quantization": "Q8", "trust_remote_code": true,
            "hf_token": "hf_x", "custom_name": "mine", "revision": "v1"
        }))
        .unwrap();
        let Some(Source::Hub(hub)) = request.source.clone() else { panic!("not of the hub") };
        assert_eq!(
            (hub.repo_id.as_str(), hub.revision.as_str(), hub.hf_token.as_str()),
            ("a/b", "v1", "hf_x")
        );
        assert_eq!((request.quantization(), request.handle.as_str()), (Quantization::Q8, "mine"));
        assert!(request.trust_remote_code);
        let request = read(&json!({"local_path": "/x"})).unwrap();
        assert_eq!(request.source, Some(Source::LocalPath("/x".into())));
        assert_eq!(request.quantization(), Quantization::Unspecified);
        for (bad, field) in [
            (json!({}), "repo_id"),
            (json!({"source": "local", "repo_id": "a/b"}), "local_path"),
            (json!({"source": "ftp", "repo_id": "a/b"}), "source"),
            (json!({"repo_id": "a/b", "quantization": "Q5"}), "quantization"),
            (json!({"repo_id": 5}), "repo_id"),
        ] {
            assert_eq!(read(&bad).unwrap_err().details["field"], field);
        }
    }
}
