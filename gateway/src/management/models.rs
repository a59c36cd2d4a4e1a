//! `/api/models`: list, get, download, preview, load, unload, cancel, delete.

use axum::extract::{self, Path, Query};
use millm_kit::{Secret, ServiceError, format, view};
use millm_proto::{
    catalog::v1::{GetModelRequest, ListModelsRequest, Model, Quantization},
    downloader::v1::{
        CancelDownloadRequest, HubSource, ModelPreview, PreviewModelRequest, RemoveModelRequest, StartDownloadRequest,
        start_download_request::Source,
    },
    runtime::v1::{
        EstimateMemoryRequest, LoadModelRequest, LoadState, MemoryEstimate, UnloadModelRequest,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Facts, view_of};
use crate::{
    State,
    reply::{Body, Reply, Success},
};

/// A token from outside, never printed.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Token(Option<Secret>);

impl Token {
    fn expose(&self) -> String {
        self.0.as_ref().map(Secret::expose).unwrap_or_default().to_owned()
    }
}

#[derive(Debug, Deserialize)]
pub struct Listing {
    #[serde(default)]
    q: String,
    /// `ready`, `error`, …: what a person sees.
    status: Option<String>,
}

pub async fn list(
    extract::State(state): extract::State<State>,
    Query(listing): Query<Listing>,
) -> Reply<Vec<view::ModelView>> {
    let mut models = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListModelsRequest { page_size: 1000, page_token, query: listing.q.clone(), ..Default::default() };
        let page = state.catalog().list_models(request).await?.into_inner();
        models.extend(page.models);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let facts = Facts::read(&state).await?;
    let views = models.iter().map(|m| facts.view(m));
    Ok(Success(views.filter(|v| listing.status.as_deref().is_none_or(|s| s == v.status)).collect()))
}

async fn model(state: &State, id: &str) -> Result<Model, ServiceError> {
    Ok(state.catalog().get_model(GetModelRequest { name: id.to_owned() }).await?.into_inner())
}

pub async fn get(extract::State(state): extract::State<State>, Path(id): Path<String>) -> Reply<view::ModelView> {
    let model = model(&state, &id).await?;
    Ok(Success(view_of(&state, &model).await?))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SourceKind {
    Huggingface,
    Local,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownloadRequest {
    source: Option<SourceKind>,
    repo_id: Option<String>,
    local_path: Option<String>,
    quantization: Option<String>,
    #[serde(default)]
    trust_remote_code: bool,
    #[serde(default)]
    hf_token: Token,
    custom_name: Option<String>,
    revision: Option<String>,
    file: Option<String>,
    #[serde(default)]
    keep_source: bool,
}

impl DownloadRequest {
    fn into_proto(self) -> Result<StartDownloadRequest, ServiceError> {
        let local = match self.source {
            Some(kind) => matches!(kind, SourceKind::Local),
            None => self.repo_id.is_none() && self.local_path.is_some(),
        };
        let missing = |field| move || ServiceError::invalid_argument(field, "is needed");
        let source = if local {
            Source::LocalPath(self.local_path.ok_or_else(missing("local_path"))?)
        } else {
            Source::Hub(HubSource {
                repo_id: self.repo_id.ok_or_else(missing("repo_id"))?,
                revision: self.revision.unwrap_or_default(),
                hf_token: self.hf_token.expose(),
                file: self.file.unwrap_or_default(),
            })
        };
        let quantization = match self.quantization.as_deref() {
            None | Some("") => Quantization::Unspecified,
            Some(text) => view::parse_quantization(text)?,
        };
        Ok(StartDownloadRequest {
            source: Some(source),
            quantization: quantization.into(),
            handle: self.custom_name.unwrap_or_default(),
            trust_remote_code: self.trust_remote_code,
            keep_source: self.keep_source,
        })
    }
}

pub async fn create(
    extract::State(state): extract::State<State>,
    Body(request): Body<DownloadRequest>,
) -> Reply<view::ModelView> {
    let download = state.downloader().start_download(request.into_proto()?).await?.into_inner();
    let model = model(&state, &download.model_id.to_string()).await?;
    Ok(Success(view_of(&state, &model).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    repo_id: String,
    #[serde(default)]
    hf_token: Token,
    revision: Option<String>,
}

pub async fn preview(extract::State(state): extract::State<State>, Body(request): Body<PreviewRequest>) -> Reply<Value> {
    let request = PreviewModelRequest {
        repo_id: request.repo_id,
        revision: request.revision.unwrap_or_default(),
        hf_token: request.hf_token.expose(),
    };
    let preview = state.downloader().preview_model(request).await?.into_inner();
    Ok(Success(preview_json(&preview)))
}

fn preview_json(p: &ModelPreview) -> Value {
    let sizes: serde_json::Map<_, _> = p
        .estimates
        .iter()
        .map(|e| {
            let value = json!({
                "disk_mb": e.disk_size_bytes / 1_000_000,
                "memory_mb": e.memory_bytes / 1_000_000,
                "disk_bytes": e.disk_size_bytes,
                "peak_disk_bytes": e.peak_disk_bytes,
                "memory_bytes": e.memory_bytes,
            });
            (view::quantization(e.quantization()).to_owned(), value)
        })
        .collect();
    let files: Vec<_> = p
        .files
        .iter()
        .map(|f| json!({ "path": f.path, "size_bytes": f.size_bytes, "selected": f.selected }))
        .collect();
    json!({
        "name": p.handle,
        "repo_id": p.repo_id,
        "commit": p.commit,
        "params": if p.parameter_count > 0 { format::parameters(p.parameter_count as u64) } else { String::new() },
        "parameter_count": p.parameter_count,
        "architecture": p.architecture.as_ref().map(|a| a.name.clone()),
        "dimensions": p.architecture.as_ref().map(view::ArchitectureView::from),
        "supported": p.supported,
        "unsupported_reason": p.unsupported_reason,
        "requires_trust_remote_code": p.requires_trust_remote_code,
        "is_gated": p.gated,
        "license": p.license,
        "download_size_bytes": p.download_size_bytes,
        "estimated_sizes": sizes,
        "files": files,
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    #[serde(default)]
    allow_insufficient_memory: bool,
    #[serde(default)]
    context_length: u32,
}

/// The body is optional: `POST /load` alone loads with the settings.
async fn optional<T: Default + serde::de::DeserializeOwned>(body: axum::body::Bytes) -> Result<T, ServiceError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&body).map_err(|e| ServiceError::invalid_argument("body", format!("is not valid: {e}")))
}

/// Answers once loading has begun; it goes on whoever leaves. What is refused at once is answered at once.
pub async fn load(
    extract::State(state): extract::State<State>,
    Path(id): Path<String>,
    body: axum::body::Bytes,
) -> Reply<view::ModelView> {
    let options: LoadRequest = optional(body).await?;
    let model = model(&state, &id).await?;
    let request = LoadModelRequest {
        model: model.name.clone(),
        allow_insufficient_memory: options.allow_insufficient_memory,
        context_length: options.context_length,
        drain_timeout: None,
    };
    let mut stream = state.runtime().load_model(request).await?.into_inner();
    if let Some(first) = stream.message().await?
        && first.state() == LoadState::Failed
        && let Some(error) = &first.error
    {
        return Err(ServiceError::from_rpc(error).into());
    }
    Ok(Success(view_of(&state, &model).await?))
}

/// Answers once unloading has begun.
pub async fn unload(extract::State(state): extract::State<State>, Path(id): Path<String>) -> Reply<view::ModelView> {
    let model = model(&state, &id).await?;
    let request = UnloadModelRequest { model: model.name.clone(), drain_timeout: None };
    let mut stream = state.runtime().unload_model(request).await?.into_inner();
    stream.message().await?;
    // The stream is followed to its end here, so that the drain does not depend on who asked.
    state.tasks.spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    Ok(Success(view_of(&state, &model).await?))
}

pub async fn cancel(extract::State(state): extract::State<State>, Path(id): Path<String>) -> Reply<Option<()>> {
    state.downloader().cancel_download(CancelDownloadRequest { name: id }).await?;
    Ok(Success(None))
}

pub async fn remove(extract::State(state): extract::State<State>, Path(id): Path<String>) -> Reply<Option<()>> {
    state.downloader().remove_model(RemoveModelRequest { name: id }).await?;
    Ok(Success(None))
}

#[derive(Debug, Serialize)]
pub struct MemoryView {
    weights_bytes: i64,
    kv_cache_bytes: i64,
    activations_bytes: i64,
    overhead_bytes: i64,
    total_bytes: i64,
    device: String,
    available_bytes: i64,
    fits: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    warning: String,
}

impl From<MemoryEstimate> for MemoryView {
    fn from(e: MemoryEstimate) -> Self {
        Self {
            weights_bytes: e.weights_bytes,
            kv_cache_bytes: e.kv_cache_bytes,
            activations_bytes: e.activations_bytes,
            overhead_bytes: e.overhead_bytes,
            total_bytes: e.total_bytes,
            device: e.device,
            available_bytes: e.available_bytes,
            fits: e.fits,
            warning: e.warning,
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct MemoryQuery {
    #[serde(default)]
    context_length: u32,
}

pub async fn memory(
    extract::State(state): extract::State<State>,
    Path(id): Path<String>,
    Query(query): Query<MemoryQuery>,
) -> Reply<MemoryView> {
    let request = EstimateMemoryRequest { model: id, context_length: query.context_length };
    Ok(Success(state.runtime().estimate_memory(request).await?.into_inner().into()))
}
