//! The preview of a repository: its content, its sizes, and obstacles to its download.

use std::collections::BTreeMap;

use millm_kit::{ServiceError, format, quantization};
use millm_proto::downloader::v1::{self as downloader, PreviewModelRequest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{download::parse_quantization, megabytes, model::Architecture, some};

/// The body of `POST /api/models/preview`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct PreviewRequest {
    /// The repository.
    #[schema(required, value_type = String, example = "owner/name", min_length = 1)]
    pub repo_id: Option<String>,
    /// A branch, tag or commit; `main` unless given.
    pub revision: Option<String>,
    /// A Hugging Face token for this call alone.
    pub hf_token: Option<String>,
    /// One file of a repository of GGUF files.
    pub file: Option<String>,
    /// Selects one of several GGUF files by a part of its name: `Q4_K_M`.
    pub variant: Option<String>,
    /// The repository's folder that holds the model.
    pub subfolder: Option<String>,
    /// The quantization of the planned download, which decides the obstacles; Q4 unless given.
    #[schema(example = "Q4")]
    pub quantization: Option<String>,
    /// The same field of the planned download, which decides the obstacles.
    pub trust_remote_code: Option<bool>,
}

impl TryFrom<PreviewRequest> for PreviewModelRequest {
    type Error = ServiceError;

    /// # Errors
    ///
    /// INVALID_ARGUMENT for `quantization`, and for `repo_id` if it is missing or empty.
    fn try_from(request: PreviewRequest) -> Result<Self, ServiceError> {
        let quantization = parse_quantization(request.quantization.as_deref())?;
        let repo_id = request.repo_id.filter(|id| !id.is_empty());
        Ok(Self {
            repo_id: repo_id.ok_or_else(|| ServiceError::invalid_argument("repo_id", "must be given"))?,
            revision: request.revision.unwrap_or_default(),
            hf_token: request.hf_token.unwrap_or_default(),
            file: request.file.unwrap_or_default(),
            quantization: quantization.into(),
            trust_remote_code: request.trust_remote_code.unwrap_or(false),
            variant: request.variant.unwrap_or_default(),
            subfolder: request.subfolder.unwrap_or_default(),
        })
    }
}

/// The preview of a repository.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelPreview {
    /// The name that the model would get.
    pub name: String,
    /// The repository.
    pub repo_id: String,
    /// The commit that the revision names.
    pub commit: String,
    /// The number of parameters as text, such as `2.5B`; empty while unknown.
    pub params: String,
    /// The number of parameters; 0 while unknown.
    pub parameter_count: i64,
    /// The architecture of config.json, such as `LlamaForCausalLM`; empty while unknown.
    pub architecture: String,
    /// The model's dimensions.
    pub architecture_details: Option<Architecture>,
    /// True if miLLM can run the model.
    pub supported: bool,
    /// The reason why miLLM cannot run the model.
    pub unsupported_reason: Option<String>,
    /// True if the repository asks for custom code.
    pub requires_trust_remote_code: bool,
    /// True if users have to request access.
    pub is_gated: bool,
    /// The licence that the repository names.
    pub license: String,
    /// Bytes to download.
    pub download_size_bytes: i64,
    /// Bytes on disk that are free for models.
    pub available_disk_bytes: i64,
    /// The reasons why a download would be refused now; empty if it would be accepted.
    pub obstacles: Vec<Obstacle>,
    /// The model's sizes, by quantization.
    pub estimated_sizes: BTreeMap<&'static str, EstimatedSize>,
    /// The repository's files.
    pub files: Vec<PreviewFile>,
}

/// A reason why a download or an extraction would be refused.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Obstacle {
    /// The machine-readable reason.
    pub code: &'static str,
    /// The reason as a sentence.
    pub message: String,
}

/// The sizes of a model with one quantization.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EstimatedSize {
    /// Decimal megabytes on disk.
    pub disk_mb: i64,
    /// Decimal megabytes of memory.
    pub memory_mb: i64,
    /// Bytes on disk when the model is complete.
    pub disk_bytes: i64,
    /// Bytes that must be free on disk during download and quantization.
    pub peak_disk_bytes: i64,
    /// The most bytes of memory that the model takes when loaded.
    pub memory_bytes: i64,
    /// The id of the same model with this quantization, if it is here or being downloaded.
    pub model_id: Option<i64>,
}

/// A file of a repository.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PreviewFile {
    /// The path within the repository.
    pub path: String,
    /// The size in bytes.
    pub size_bytes: i64,
    /// True if a download with the default settings fetches the file.
    pub selected: bool,
}

impl From<&downloader::ModelPreview> for ModelPreview {
    fn from(p: &downloader::ModelPreview) -> Self {
        let size = |e: &downloader::QuantizationEstimate| {
            let size = EstimatedSize {
                disk_mb: megabytes(e.disk_size_bytes),
                memory_mb: megabytes(e.memory_bytes),
                disk_bytes: e.disk_size_bytes,
                peak_disk_bytes: e.peak_disk_bytes,
                memory_bytes: e.memory_bytes,
                model_id: (e.model_id > 0).then_some(e.model_id),
            };
            (quantization::name(e.quantization()), size)
        };
        let obstacle = |error: ServiceError| Obstacle { code: error.reason.name(), message: error.message };
        let file = |file: &downloader::PreviewFile| PreviewFile {
            path: file.path.clone(),
            size_bytes: file.size_bytes,
            selected: file.selected,
        };
        let parameters = u64::try_from(p.parameter_count).unwrap_or(0);
        Self {
            name: p.handle.clone(),
            repo_id: p.repo_id.clone(),
            commit: p.commit.clone(),
            params: if parameters > 0 { format::parameters(parameters) } else { String::new() },
            parameter_count: p.parameter_count,
            architecture: p.architecture.as_ref().map(|a| a.name.clone()).unwrap_or_default(),
            architecture_details: p.architecture.as_ref().map(Architecture::from),
            supported: p.supported,
            unsupported_reason: some(&p.unsupported_reason),
            requires_trust_remote_code: p.requires_trust_remote_code,
            is_gated: p.gated,
            license: p.license.clone(),
            download_size_bytes: p.download_size_bytes,
            available_disk_bytes: p.available_disk_bytes,
            obstacles: p.obstacles.iter().map(ServiceError::from_rpc).map(obstacle).collect(),
            estimated_sizes: p.estimates.iter().map(size).collect(),
            files: p.files.iter().map(file).collect(),
        }
    }
}
