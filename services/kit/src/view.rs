//! A model as REST and `--json` show it: the seeds' fields, with bytes and facts beside them. Made from the
//! three services' facts by [`model`]; nobody stores it.

pub mod hub;

use millm_proto::{
    catalog::v1::{Architecture, Model, Quantization, Source},
    downloader::v1::{Download, download},
    runtime::v1::LoadedModel,
};
use serde::Serialize;

use crate::{ServiceError, format, status};

/// `Q4`, as people write it; empty when unspecified.
pub const fn quantization(quantization: Quantization) -> &'static str {
    match quantization {
        Quantization::Unspecified => "",
        Quantization::Q2 => "Q2",
        Quantization::Q4 => "Q4",
        Quantization::Q8 => "Q8",
        Quantization::Fp16 => "FP16",
        Quantization::Native => "NATIVE",
    }
}

/// Reads what [`quantization`] writes; case does not matter.
pub fn parse_quantization(text: &str) -> Result<Quantization, ServiceError> {
    use Quantization::{Fp16, Native, Q2, Q4, Q8};
    [Q2, Q4, Q8, Fp16, Native].into_iter().find(|q| quantization(*q).eq_ignore_ascii_case(text)).ok_or_else(
        || ServiceError::invalid_argument("quantization", "must be one of Q2, Q4, Q8, FP16, NATIVE"),
    )
}

/// `downloading`, `quantizing`, …
pub const fn download_state(state: download::State) -> &'static str {
    use download::State;
    match state {
        State::Unspecified => "",
        State::Queued => "queued",
        State::Resolving => "resolving",
        State::Downloading => "downloading",
        State::Verifying => "verifying",
        State::Quantizing => "quantizing",
        State::Finalizing => "finalizing",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}

/// 001 §3's `Model`, and more.
#[derive(Debug, Clone, Serialize)]
pub struct ModelView {
    pub id: i64,
    pub name: String,
    pub source: &'static str,
    pub repo_id: Option<String>,
    pub revision: Option<String>,
    pub commit: Option<String>,
    pub file: Option<String>,
    pub local_path: Option<String>,
    /// `2.5B`.
    pub params: String,
    pub parameter_count: i64,
    /// What it got; what was asked for until then.
    pub quantization: &'static str,
    pub requested_quantization: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization_reason: Option<String>,
    pub architecture: Option<ArchitectureView>,
    pub disk_size_mb: i64,
    pub disk_size_bytes: i64,
    pub estimated_memory_mb: i64,
    pub estimated_memory_bytes: i64,
    pub trust_remote_code: bool,
    pub has_chat_template: bool,
    pub status: &'static str,
    /// 0 to 100, while it arrives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_progress: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u32>,
    /// When a queued one will begin, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_start_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<&'static str>,
    pub files: Vec<FileView>,
    pub storage_path: Option<String>,
    pub created_at: Option<String>,
    pub updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_at: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ArchitectureView {
    pub name: String,
    pub family: String,
    pub layers: u32,
    pub hidden_size: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub intermediate_size: u32,
    pub vocabulary_size: u32,
    pub context_length: u32,
}

#[derive(Debug, Clone, Serialize)]
pub struct FileView {
    pub path: String,
    pub size_bytes: i64,
    pub sha256: String,
}

impl From<&Architecture> for ArchitectureView {
    fn from(a: &Architecture) -> Self {
        Self {
            name: a.name.clone(),
            family: a.family.clone(),
            layers: a.layers,
            hidden_size: a.hidden_size,
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            intermediate_size: a.intermediate_size,
            vocabulary_size: a.vocabulary_size,
            context_length: a.context_length,
        }
    }
}

/// `download` and `loaded` are those of this model, when there are any.
pub fn model(model: &Model, download: Option<&Download>, loaded: Option<&LoadedModel>) -> ModelView {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let status = status::join(model, download, loaded);
    let arriving = download.filter(|d| {
        use download::State as S;
        !matches!(d.state(), S::Succeeded | S::Failed | S::Cancelled | S::Unspecified)
    });
    let error = model
        .error
        .as_ref()
        .or_else(|| download.and_then(|d| d.error.as_ref()))
        .filter(|_| status == status::ModelStatus::Error)
        .map(ServiceError::from_rpc);
    let requested = quantization(model.requested_quantization());
    let actual = quantization(model.actual_quantization());
    ModelView {
        id: model.id,
        name: model.handle.clone(),
        source: if model.source() == Source::Local { "local" } else { "huggingface" },
        repo_id: some(&model.repo_id),
        revision: some(&model.revision),
        commit: some(&model.commit),
        file: some(&model.file),
        local_path: some(&model.local_path),
        params: if model.parameter_count > 0 {
            format::parameters(model.parameter_count as u64)
        } else {
            String::new()
        },
        parameter_count: model.parameter_count,
        quantization: if actual.is_empty() { requested } else { actual },
        requested_quantization: requested,
        quantization_reason: some(&model.quantization_reason),
        architecture: model.architecture.as_ref().map(ArchitectureView::from),
        disk_size_mb: model.disk_size_bytes / 1_000_000,
        disk_size_bytes: model.disk_size_bytes,
        estimated_memory_mb: model.memory_estimate_bytes / 1_000_000,
        estimated_memory_bytes: model.memory_estimate_bytes,
        trust_remote_code: model.trust_remote_code,
        has_chat_template: model.has_chat_template,
        status: status.as_str(),
        download_progress: arriving.map(|d| (d.fraction * 1000.0).round() / 10.0),
        queue_position: arriving.map(|d| d.queue_position).filter(|p| *p > 0),
        estimated_start_at: arriving.and_then(|d| d.estimated_start_time.as_ref()).map(ToString::to_string),
        error_message: error.as_ref().map(|e| e.message.clone()),
        error_code: error.as_ref().map(|e| e.reason.name()),
        files: model
            .files
            .iter()
            .map(|f| FileView { path: f.path.clone(), size_bytes: f.size_bytes, sha256: f.sha256.clone() })
            .collect(),
        storage_path: some(&model.storage_path),
        created_at: model.create_time.as_ref().map(ToString::to_string),
        updated_at: model.update_time.as_ref().map(ToString::to_string),
        loaded_at: loaded.and_then(|l| l.load_time.as_ref()).map(ToString::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantizations_read_back() {
        for q in
            [Quantization::Q2, Quantization::Q4, Quantization::Q8, Quantization::Fp16, Quantization::Native]
        {
            assert_eq!(parse_quantization(quantization(q)).unwrap(), q);
            assert_eq!(parse_quantization(&quantization(q).to_lowercase()).unwrap(), q);
        }
        assert!(parse_quantization("").is_err() && parse_quantization("Q3").is_err());
    }

    #[test]
    fn progress_shows_only_while_it_arrives() {
        let row = Model { id: 3, handle: "tiny".into(), parameter_count: 3_673_344, ..Model::default() };
        let mut download =
            Download { state: download::State::Downloading.into(), fraction: 0.4567, ..Download::default() };
        let view = model(&row, Some(&download), None);
        assert_eq!(
            (view.status, view.download_progress, view.params.as_str()),
            ("downloading", Some(45.7), "3.7M")
        );
        download.set_state(download::State::Succeeded);
        assert_eq!(model(&row, Some(&download), None).download_progress, None);
    }
}
