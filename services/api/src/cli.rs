//! The JSON that only the command line prints with `--json`: one document, or one for each line.

use std::collections::BTreeMap;

use millm_proto::downloader::v1 as downloader;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{Error, some, time};

/// `millm rm --json`, for each model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Removed {
    /// The model's name.
    pub removed: String,
    /// The model's id.
    pub id: i64,
}

/// `millm cancel --json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Cancelled {
    /// The model, as the command named it.
    pub cancelled: String,
}

/// `millm run --json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Answer {
    /// The model's text.
    pub answer: String,
}

/// A failed command: `{"error": …}`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorReport {
    /// The error, as the REST API has it.
    pub error: Error,
}

/// A setting of `millm config --json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Setting {
    /// As text; secrets are hidden.
    pub value: String,
    /// The layer that it comes from: `default`, `file`, …
    pub from: &'static str,
    /// The environment variable that sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<&'static str>,
}

/// `millm doctor --json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Checkup {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// How many things are wrong.
    pub problems: usize,
    /// The server's address.
    pub server: String,
    /// The settings that matter most, by name.
    pub settings: BTreeMap<&'static str, Setting>,
    /// By service.
    pub services: BTreeMap<&'static str, ServiceCheck>,
    /// The models folder.
    pub storage: StorageCheck,
}

/// How a service answers.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ServiceCheck {
    /// Whether nothing is wrong with it.
    pub ok: bool,
    /// For people.
    pub says: String,
}

/// The files on disk, or the reason why they cannot be read.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum StorageCheck {
    /// The report.
    Report(StorageReport),
    /// Why there is none.
    Failed {
        /// For people.
        error: String,
    },
}

/// The files on disk.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StorageReport {
    /// The models folder.
    pub path: String,
    /// Why it cannot be written.
    pub write_error: Option<String>,
    /// Free for models.
    pub free_bytes: i64,
    /// `ext4`.
    pub file_system: Option<String>,
    /// Finished models.
    pub models_bytes: i64,
    /// Unfinished models.
    pub partial_bytes: i64,
    /// The bytes that a fix frees, or has freed.
    pub reclaimable_bytes: i64,
    /// The Hugging Face cache, whose files are used again.
    pub hub_cache: Option<String>,
    /// Disagreements between the disk and the catalogue.
    pub findings: Vec<Finding>,
}

/// A disagreement between the disk and the catalogue.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Finding {
    /// `files_missing`, `partial_old`, …
    pub kind: String,
    /// Where.
    pub path: String,
    /// The model.
    pub model_id: Option<i64>,
    /// The model's name.
    pub name: Option<String>,
    /// On disk.
    pub bytes: i64,
    /// Of the youngest file (RFC 3339).
    pub changed_at: Option<String>,
    /// Whether something is wrong; otherwise it is only worth knowing.
    pub problem: bool,
    /// What a fix does, for people.
    pub remedy: Option<String>,
    /// Whether it has been done.
    pub fixed: bool,
    /// Why it could not be done.
    pub error: Option<String>,
}

impl From<&downloader::StorageReport> for StorageReport {
    fn from(report: &downloader::StorageReport) -> Self {
        Self {
            path: report.path.clone(),
            write_error: some(&report.write_error),
            free_bytes: report.free_bytes,
            file_system: some(&report.file_system),
            models_bytes: report.models_bytes,
            partial_bytes: report.partial_bytes,
            reclaimable_bytes: report.reclaimable_bytes,
            hub_cache: some(&report.hub_cache),
            findings: report.findings.iter().map(Finding::from).collect(),
        }
    }
}

impl From<&downloader::StorageFinding> for Finding {
    fn from(finding: &downloader::StorageFinding) -> Self {
        Self {
            kind: finding.kind().as_str_name().trim_start_matches("KIND_").to_lowercase(),
            path: finding.path.clone(),
            model_id: (finding.model_id > 0).then_some(finding.model_id),
            name: some(&finding.handle),
            bytes: finding.bytes,
            changed_at: time(finding.change_time.as_ref()),
            problem: finding.problem,
            remedy: some(&finding.remedy),
            fixed: finding.fixed,
            error: some(&finding.error),
        }
    }
}
