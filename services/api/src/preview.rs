//! What a repository holds and would take, before it is downloaded.

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
    /// As the download would ask for it, for the obstacles; Q4 unless given.
    #[schema(example = "Q4")]
    pub quantization: Option<String>,
    /// As the download would say it, for the obstacles.
    pub trust_remote_code: Option<bool>,
}

impl TryFrom<PreviewRequest> for PreviewModelRequest {
    type Error = ServiceError;

    /// # Errors
    ///
    /// INVALID_ARGUMENT of `quantization`, and of `repo_id` when it is missing or empty.
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

/// What a repository holds and would take.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelPreview {
    /// What the model would be called.
    pub name: String,
    /// The repository.
    pub repo_id: String,
    /// The commit that the revision is at.
    pub commit: String,
    /// The number of parameters for people, `2.5B`; empty while unknown.
    pub params: String,
    /// 0 while unknown.
    pub parameter_count: i64,
    /// As config.json has it, `LlamaForCausalLM`; empty while unknown.
    pub architecture: String,
    /// Its shape.
    pub architecture_details: Option<Architecture>,
    /// Whether miLLM can run it.
    pub supported: bool,
    /// Why it cannot.
    pub unsupported_reason: Option<String>,
    /// Whether the repository asks for custom code.
    pub requires_trust_remote_code: bool,
    /// Whether its owner grants access to each user.
    pub is_gated: bool,
    /// As the repository names it.
    pub license: String,
    /// Bytes to fetch.
    pub download_size_bytes: i64,
    /// Bytes free for models.
    pub available_disk_bytes: i64,
    /// Why a download would be refused now; empty when it would not.
    pub obstacles: Vec<Obstacle>,
    /// What it takes, by quantization.
    pub estimated_sizes: BTreeMap<&'static str, EstimatedSize>,
    /// The repository's files.
    pub files: Vec<PreviewFile>,
}

/// Why a download would be refused.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Obstacle {
    /// A reason of the error table.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// What a model takes with one quantization.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EstimatedSize {
    /// Decimal megabytes on disk.
    pub disk_mb: i64,
    /// Decimal megabytes of memory.
    pub memory_mb: i64,
    /// Bytes that stay on disk.
    pub disk_bytes: i64,
    /// Bytes that must be free while it is being made.
    pub peak_disk_bytes: i64,
    /// Bytes of memory when loaded.
    pub memory_bytes: i64,
    /// The model that is this already, ready or on its way.
    pub model_id: Option<i64>,
}

/// A file of a repository.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PreviewFile {
    /// Within the repository.
    pub path: String,
    /// Its size.
    pub size_bytes: i64,
    /// Whether a download with the default settings fetches it.
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
