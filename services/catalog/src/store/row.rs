//! The rows of the table `models`, and their conversion from and to the API's [`Model`].

use millm_proto::{
    catalog::v1::{Architecture, Model, ModelFile, Quantization, Source, model::State},
    rpc,
};
use prost::Message as _;
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, types::Json};

/// A row of `models`, its fields named as the columns. Enum values are stored without the API's prefixes: `READY`.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct ModelRow {
    pub id: i64,
    pub handle: String,
    pub source: String,
    pub repo_id: String,
    pub revision: String,
    pub commit_id: String,
    pub file: String,
    pub local_path: String,
    pub storage_path: String,
    pub requested_quantization: String,
    pub actual_quantization: String,
    pub quantization_reason: String,
    pub architecture: Json<Option<StoredArchitecture>>,
    pub parameter_count: i64,
    pub disk_size_bytes: i64,
    pub memory_estimate_bytes: i64,
    pub config_json: String,
    pub files: Json<Vec<StoredFile>>,
    pub trust_remote_code: bool,
    pub has_chat_template: bool,
    pub state: String,
    pub error: Vec<u8>,
    pub search_text: String,
    pub version: i64,
    pub create_time: i64,
    pub update_time: i64,
}

/// The JSON of the column `architecture`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoredArchitecture {
    name: String,
    family: String,
    layers: u32,
    hidden_size: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    intermediate_size: u32,
    vocabulary_size: u32,
    context_length: u32,
}

impl Default for StoredArchitecture {
    fn default() -> Self {
        Architecture::default().into()
    }
}

/// An element of the JSON of the column `files`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredFile {
    path: String,
    size_bytes: i64,
    sha256: String,
}

impl ModelRow {
    /// Returns the row of `model`. Its `name` and `etag` are derived from the row and not stored.
    pub fn from_model(model: Model, version: i64) -> Self {
        let search_text = search_text(&model);
        Self {
            id: model.id,
            source: word(model.source().as_str_name(), "SOURCE_"),
            requested_quantization: quantization_word(model.requested_quantization()),
            actual_quantization: quantization_word(model.actual_quantization()),
            state: state_word(model.state()),
            error: model.error.as_ref().map(rpc::Status::encode_to_vec).unwrap_or_default(),
            create_time: model.create_time.as_ref().map_or(0, micros),
            update_time: model.update_time.as_ref().map_or(0, micros),
            search_text,
            version,
            handle: model.handle,
            repo_id: model.repo_id,
            revision: model.revision,
            commit_id: model.commit,
            file: model.file,
            local_path: model.local_path,
            storage_path: model.storage_path,
            quantization_reason: model.quantization_reason,
            architecture: Json(model.architecture.map(Into::into)),
            parameter_count: model.parameter_count,
            disk_size_bytes: model.disk_size_bytes,
            memory_estimate_bytes: model.memory_estimate_bytes,
            config_json: model.config_json,
            files: Json(model.files.into_iter().map(Into::into).collect()),
            trust_remote_code: model.trust_remote_code,
            has_chat_template: model.has_chat_template,
        }
    }

    /// Returns the row as the API's model.
    pub fn into_model(self) -> Model {
        let source = Source::from_str_name(&format!("SOURCE_{}", self.source)).unwrap_or_default();
        let state = State::from_str_name(&format!("STATE_{}", self.state)).unwrap_or_default();
        Model {
            name: format!("models/{}", self.id),
            id: self.id,
            handle: self.handle,
            source: source.into(),
            repo_id: self.repo_id,
            revision: self.revision,
            commit: self.commit_id,
            file: self.file,
            local_path: self.local_path,
            storage_path: self.storage_path,
            requested_quantization: quantization(&self.requested_quantization).into(),
            actual_quantization: quantization(&self.actual_quantization).into(),
            quantization_reason: self.quantization_reason,
            architecture: self.architecture.0.map(Into::into),
            parameter_count: self.parameter_count,
            disk_size_bytes: self.disk_size_bytes,
            memory_estimate_bytes: self.memory_estimate_bytes,
            config_json: self.config_json,
            files: self.files.0.into_iter().map(Into::into).collect(),
            trust_remote_code: self.trust_remote_code,
            state: state.into(),
            error: (!self.error.is_empty())
                .then(|| rpc::Status::decode(self.error.as_slice()).ok())
                .flatten(),
            create_time: Some(timestamp(self.create_time)),
            update_time: Some(timestamp(self.update_time)),
            etag: etag(self.version),
            has_chat_template: self.has_chat_template,
        }
    }
}

/// Returns the API's etag of a version.
pub(crate) fn etag(version: i64) -> String {
    format!("v{version}")
}

/// Returns a state as stored: `READY`.
pub(crate) fn state_word(state: State) -> String {
    word(state.as_str_name(), "STATE_")
}

/// Returns a quantization as stored: `Q4`.
fn quantization_word(quantization: Quantization) -> String {
    word(quantization.as_str_name(), "QUANTIZATION_")
}

fn quantization(word: &str) -> Quantization {
    Quantization::from_str_name(&format!("QUANTIZATION_{word}")).unwrap_or_default()
}

fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}

fn search_text(model: &Model) -> String {
    let architecture = model.architecture.clone().unwrap_or_default();
    [&model.handle, &model.repo_id, &model.file, &model.local_path, &architecture.name, &architecture.family]
        .map(|part| part.to_lowercase())
        .join("\n")
}

/// Returns a time as stored: microseconds since 1970.
pub(crate) fn micros(time: &Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1000
}

/// Returns a stored time.
pub(crate) fn timestamp(micros: i64) -> Timestamp {
    Timestamp { seconds: micros.div_euclid(1_000_000), nanos: (micros.rem_euclid(1_000_000) * 1000) as i32 }
}

impl From<Architecture> for StoredArchitecture {
    fn from(a: Architecture) -> Self {
        Self {
            name: a.name,
            family: a.family,
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

impl From<StoredArchitecture> for Architecture {
    fn from(a: StoredArchitecture) -> Self {
        Self {
            name: a.name,
            family: a.family,
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

impl From<ModelFile> for StoredFile {
    fn from(file: ModelFile) -> Self {
        Self { path: file.path, size_bytes: file.size_bytes, sha256: file.sha256 }
    }
}

impl From<StoredFile> for ModelFile {
    fn from(file: StoredFile) -> Self {
        Self { path: file.path, size_bytes: file.size_bytes, sha256: file.sha256 }
    }
}
