//! `POST /api/models/preview`: what a repository holds and would need.

use std::sync::Arc;

use axum::extract::{Request, State};
use millm_kit::{
    ServiceError, format,
    view::{self, ArchitectureView},
};
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{ModelPreview, PreviewModelRequest},
};
use serde_json::{Map, Value, json};

use super::{Answer, megabytes, success};
use crate::{
    app::{App, from_downloader},
    body::Fields,
};

pub async fn create(State(app): State<Arc<App>>, request: Request) -> Answer {
    let mut fields = Fields::read(request).await?;
    let quantization = match fields.take::<String>("quantization")? {
        Some(text) => view::parse_quantization(&text)?,
        None => Quantization::Unspecified,
    };
    let request = PreviewModelRequest {
        repo_id: fields.required("repo_id")?,
        revision: fields.take("revision")?.unwrap_or_default(),
        hf_token: fields.take("hf_token")?.unwrap_or_default(),
        file: fields.take("file")?.unwrap_or_default(),
        quantization: quantization.into(),
        trust_remote_code: fields.take("trust_remote_code")?.unwrap_or(false),
        variant: fields.take("variant")?.unwrap_or_default(),
        subfolder: fields.take("subfolder")?.unwrap_or_default(),
    };
    let preview = app.downloader().preview_model(request).await.map_err(from_downloader)?.into_inner();
    Ok(success(value(&preview)))
}

fn value(preview: &ModelPreview) -> Value {
    let sizes = preview.estimates.iter().map(|estimate| {
        let size = json!({
            "disk_mb": megabytes(estimate.disk_size_bytes),
            "memory_mb": megabytes(estimate.memory_bytes),
            "disk_bytes": estimate.disk_size_bytes,
            "peak_disk_bytes": estimate.peak_disk_bytes,
            "memory_bytes": estimate.memory_bytes,
            "model_id": (estimate.model_id > 0).then_some(estimate.model_id),
        });
        (view::quantization(estimate.quantization()).to_owned(), size)
    });
    let sizes: Map<String, Value> = sizes.collect();
    let files: Vec<Value> = preview
        .files
        .iter()
        .map(|file| json!({"path": file.path, "size_bytes": file.size_bytes, "selected": file.selected}))
        .collect();
    let obstacles: Vec<Value> = preview
        .obstacles
        .iter()
        .map(ServiceError::from_rpc)
        .map(|error| json!({"code": error.reason.name(), "message": error.message}))
        .collect();
    let parameters = u64::try_from(preview.parameter_count).unwrap_or(0);
    json!({
        "name": preview.handle,
        "repo_id": preview.repo_id,
        "commit": preview.commit,
        "params": if parameters > 0 { format::parameters(parameters) } else { String::new() },
        "parameter_count": preview.parameter_count,
        "architecture": preview.architecture.as_ref().map_or("", |a| a.name.as_str()),
        "architecture_details": preview.architecture.as_ref().map(ArchitectureView::from),
        "supported": preview.supported,
        "unsupported_reason": (!preview.unsupported_reason.is_empty()).then_some(&preview.unsupported_reason),
        "requires_trust_remote_code": preview.requires_trust_remote_code,
        "is_gated": preview.gated,
        "license": preview.license,
        "download_size_bytes": preview.download_size_bytes,
        "available_disk_bytes": preview.available_disk_bytes,
        "obstacles": obstacles,
        "estimated_sizes": sizes,
        "files": files,
    })
}
