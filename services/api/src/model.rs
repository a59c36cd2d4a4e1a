//! A model in the form of `GET /api/models` and `millm list --json`.

use millm_kit::{ServiceError, format, quantization};
use millm_proto::{catalog::v1 as catalog, downloader::v1::Download, runtime::v1::LoadedModel};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{FailedStep, Source, Status, download::is_running, megabytes, percent, some, time};

/// A model with its status and the progress of its download.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Model {
    /// The model's id, which is never reused.
    pub id: i64,
    /// The model's name, which is unique.
    pub name: String,
    /// The source of the model's files.
    pub source: Source,
    /// The repository on the hub, `owner/name`.
    pub repo_id: Option<String>,
    /// The requested branch, tag or commit.
    pub revision: Option<String>,
    /// The commit that the revision named at the download: 40 hex digits.
    pub commit: Option<String>,
    /// The file that was chosen from the repository.
    pub file: Option<String>,
    /// The absolute path of a local model.
    pub local_path: Option<String>,
    /// The number of parameters as text, such as `2.5B`; empty while unknown.
    pub params: String,
    /// The number of parameters; 0 while unknown.
    pub parameter_count: i64,
    /// The quantization of the weights. Until they are complete, the requested quantization.
    #[schema(example = "Q4")]
    pub quantization: &'static str,
    /// The requested quantization.
    #[schema(example = "Q4")]
    pub requested_quantization: &'static str,
    /// The reason why the two quantizations differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization_reason: Option<String>,
    /// The model's dimensions; null while unknown.
    pub architecture: Option<Architecture>,
    /// Decimal megabytes on disk.
    pub disk_size_mb: i64,
    /// Bytes on disk.
    pub disk_size_bytes: i64,
    /// The most memory that the model takes when loaded, estimated, in decimal megabytes.
    pub estimated_memory_mb: i64,
    /// The most memory that the model takes when loaded, estimated, in bytes.
    pub estimated_memory_bytes: i64,
    /// True if the caller agreed to use miLLM's own implementation for a repository that asks for custom code.
    pub trust_remote_code: bool,
    /// True if the model has a chat template.
    pub has_chat_template: bool,
    /// The model's status.
    pub status: Status,
    /// The step that failed, if the status is `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_step: Option<FailedStep>,
    /// Progress of a running download, from 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_progress: Option<f64>,
    /// Place in the queue of downloads: 1 is next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u32>,
    /// Estimated start of a queued download (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_start_at: Option<String>,
    /// The reason why the step failed, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The machine-readable reason why the step failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<&'static str>,
    /// The model's files.
    pub files: Vec<ModelFile>,
    /// The path of the files: a folder, or one GGUF file.
    pub storage_path: Option<String>,
    /// The time of the registration (RFC 3339).
    pub created_at: Option<String>,
    /// The time of the last change (RFC 3339).
    pub updated_at: Option<String>,
    /// The time of the load, while the model is in memory (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_at: Option<String>,
}

/// The architecture and dimensions of a model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Architecture {
    /// The architecture of config.json, such as `LlamaForCausalLM`.
    pub name: String,
    /// The family, such as `llama`.
    pub family: String,
    /// Decoder layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Query heads of each layer.
    pub heads: u32,
    /// Key and value heads of each layer.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Width of the MLP.
    pub intermediate_size: u32,
    /// Token ids.
    pub vocabulary_size: u32,
    /// Context length in tokens that the model was trained for.
    pub context_length: u32,
}

/// A file of a model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelFile {
    /// The path relative to the model's folder.
    pub path: String,
    /// The size in bytes.
    pub size_bytes: i64,
    /// The SHA-256 hash: 64 hex digits.
    pub sha256: String,
}

impl From<&catalog::Architecture> for Architecture {
    fn from(a: &catalog::Architecture) -> Self {
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

impl From<&catalog::ModelFile> for ModelFile {
    fn from(file: &catalog::ModelFile) -> Self {
        Self { path: file.path.clone(), size_bytes: file.size_bytes, sha256: file.sha256.clone() }
    }
}

impl Model {
    /// Joins a row of the Catalog with the model's download and its state in the Runtime, if there are any.
    pub fn new(model: &catalog::Model, download: Option<&Download>, loaded: Option<&LoadedModel>) -> Self {
        let status = Status::of(model, download, loaded);
        let failed_step = status.failed_step(model);
        let running = download.filter(|download| is_running(download.state()));
        let error = match failed_step {
            Some(FailedStep::Load) => loaded.and_then(|l| l.progress.as_ref()).and_then(|p| p.error.as_ref()),
            Some(FailedStep::Download) => {
                model.error.as_ref().or_else(|| download.and_then(|d| d.error.as_ref()))
            }
            None => None,
        };
        let error = error.map(ServiceError::from_rpc);
        let requested = quantization::name(model.requested_quantization());
        let actual = quantization::name(model.actual_quantization());
        let parameters = u64::try_from(model.parameter_count).unwrap_or(0);
        Self {
            id: model.id,
            name: model.handle.clone(),
            source: match model.source() {
                catalog::Source::Local => Source::Local,
                catalog::Source::Huggingface | catalog::Source::Unspecified => Source::Huggingface,
            },
            repo_id: some(&model.repo_id),
            revision: some(&model.revision),
            commit: some(&model.commit),
            file: some(&model.file),
            local_path: some(&model.local_path),
            params: if parameters > 0 { format::parameters(parameters) } else { String::new() },
            parameter_count: model.parameter_count,
            quantization: if actual.is_empty() { requested } else { actual },
            requested_quantization: requested,
            quantization_reason: some(&model.quantization_reason),
            architecture: model.architecture.as_ref().map(Architecture::from),
            disk_size_mb: megabytes(model.disk_size_bytes),
            disk_size_bytes: model.disk_size_bytes,
            estimated_memory_mb: megabytes(model.memory_estimate_bytes),
            estimated_memory_bytes: model.memory_estimate_bytes,
            trust_remote_code: model.trust_remote_code,
            has_chat_template: model.has_chat_template,
            status,
            failed_step,
            download_progress: running.map(|d| percent(d.fraction)),
            queue_position: running.map(|d| d.queue_position).filter(|position| *position > 0),
            estimated_start_at: running.and_then(|d| time(d.estimated_start_time.as_ref())),
            error_message: error.as_ref().map(|e| e.message.clone()),
            error_code: error.as_ref().map(|e| e.reason.name()),
            files: model.files.iter().map(ModelFile::from).collect(),
            storage_path: some(&model.storage_path),
            created_at: time(model.create_time.as_ref()),
            updated_at: time(model.update_time.as_ref()),
            loaded_at: loaded.and_then(|l| time(l.load_time.as_ref())),
        }
    }
}

/// `GET /api/models/{id}/architecture`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelArchitecture {
    /// The model's id.
    pub id: i64,
    /// The model's name.
    pub name: String,
    /// The model's dimensions; null while unknown.
    pub architecture: Option<Architecture>,
    /// The number of parameters; 0 while unknown.
    pub parameter_count: i64,
    /// config.json as published; null if there is none, as for a GGUF file.
    pub config: Value,
}

impl From<catalog::Model> for ModelArchitecture {
    fn from(model: catalog::Model) -> Self {
        Self {
            id: model.id,
            architecture: model.architecture.as_ref().map(Architecture::from),
            parameter_count: model.parameter_count,
            config: serde_json::from_str(&model.config_json).unwrap_or(Value::Null),
            name: model.handle,
        }
    }
}

/// The body of `PATCH /api/models/{id}`: the fields to change.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ModelPatch {
    /// The new name: 1 to 255 letters, digits, `-`, `_` and `.`; no other model may have it.
    #[schema(example = "my-model", min_length = 1, max_length = 255)]
    pub name: Option<String>,
}

#[cfg(test)]
mod tests {
    use millm_proto::{
        downloader::v1::download::State,
        runtime::v1::{LoadProgress, LoadState},
    };

    use super::*;

    #[test]
    fn progress_shows_only_while_a_download_runs() {
        let row =
            catalog::Model { id: 3, handle: "tiny".into(), parameter_count: 3_673_344, ..Default::default() };
        let mut download =
            Download { state: State::Downloading.into(), fraction: 0.4567, ..Download::default() };
        let model = Model::new(&row, Some(&download), None);
        assert_eq!(
            (model.status, model.download_progress, model.params.as_str()),
            (Status::Downloading, Some(45.7), "3.7M")
        );
        download.set_state(State::Succeeded);
        assert_eq!(Model::new(&row, Some(&download), None).download_progress, None);
    }

    #[test]
    fn errors_are_those_of_the_failed_step() {
        let download_failed = Some(ServiceError::repo_not_found("a/b").to_rpc());
        let mut row = catalog::Model { error: download_failed, ..Default::default() };
        row.set_state(catalog::model::State::Error);
        let model = Model::new(&row, None, None);
        assert_eq!(
            (model.failed_step, model.error_code),
            (Some(FailedStep::Download), Some("REPO_NOT_FOUND"))
        );
        row.set_state(catalog::model::State::Ready);
        let error = Some(ServiceError::load_out_of_memory().to_rpc());
        let mut loaded = LoadedModel {
            state: LoadState::Failed.into(),
            progress: Some(LoadProgress { error, ..LoadProgress::default() }),
            ..LoadedModel::default()
        };
        let model = Model::new(&row, None, Some(&loaded));
        assert_eq!(
            (model.failed_step, model.error_code),
            (Some(FailedStep::Load), Some("MODEL_LOAD_FAILED"))
        );
        loaded.set_state(LoadState::Loaded);
        let model = Model::new(&row, None, Some(&loaded));
        assert_eq!((model.status, model.failed_step, model.error_code), (Status::Loaded, None, None));
    }
}
