//! The JSON that only the command line prints with `--json`: one document, or one for each line.

use std::collections::BTreeMap;

use millm_proto::downloader::v1 as downloader;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{Error, some, time};

/// `millm rm --json`, for each model; also `millm datasets rm --json` and `millm templates rm --json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Removed {
    /// The name of what was removed.
    pub removed: String,
    /// Its id.
    pub id: i64,
}

/// `millm extractions rm --json`, for each extraction.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RemovedExtraction {
    /// The extraction's id.
    pub removed: String,
}

/// `millm extractions fetch --json`, for each file.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FetchedFile {
    /// Where the file is now.
    pub path: String,
    /// Its size.
    pub size_bytes: i64,
    /// 64 hex digits.
    pub sha256: String,
    /// Whether it was there before, complete.
    pub was_there: bool,
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
    /// The error, in the REST API's form.
    pub error: Error,
}

/// A setting of `millm config --json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Setting {
    /// The value as text. Secrets are hidden.
    pub value: String,
    /// The layer that the value comes from: `default`, `file`, …
    pub from: &'static str,
    /// The environment variable that sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<&'static str>,
}

/// `millm doctor --json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Checkup {
    /// True if no problem was found.
    pub ok: bool,
    /// The number of problems.
    pub problems: usize,
    /// The server's address.
    pub server: String,
    /// The settings that matter most, by name.
    pub settings: BTreeMap<&'static str, Setting>,
    /// The check of each service, by its name.
    pub services: BTreeMap<&'static str, ServiceCheck>,
    /// The check of the models folder.
    pub storage: StorageCheck,
}

/// The result of asking a service.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ServiceCheck {
    /// True if the service has no problem.
    pub ok: bool,
    /// The service's state as a sentence.
    pub says: String,
}

/// A report on the files on disk, or the reason why there is none.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum StorageCheck {
    /// The report.
    Report(StorageReport),
    /// The report failed.
    Failed {
        /// The reason as a sentence.
        error: String,
    },
}

/// The files on disk.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StorageReport {
    /// The models folder.
    pub path: String,
    /// The reason why the folder cannot be written; null if it can.
    pub write_error: Option<String>,
    /// Bytes that are free for models.
    pub free_bytes: i64,
    /// The file system, such as `ext4`; null while unknown.
    pub file_system: Option<String>,
    /// Bytes of complete models.
    pub models_bytes: i64,
    /// Bytes of incomplete models.
    pub partial_bytes: i64,
    /// Bytes that a fix frees, or has freed.
    pub reclaimable_bytes: i64,
    /// The folder of the Hugging Face cache, whose files are reused.
    pub hub_cache: Option<String>,
    /// Differences between the disk and the catalog.
    pub findings: Vec<Finding>,
}

/// A difference between the disk and the catalog.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Finding {
    /// The kind of finding: `files_missing`, `partial_old`, …
    pub kind: String,
    /// The path on disk.
    pub path: String,
    /// The model's id.
    pub model_id: Option<i64>,
    /// The model's name.
    pub name: Option<String>,
    /// Bytes on disk.
    pub bytes: i64,
    /// The time of the youngest file's last change (RFC 3339).
    pub changed_at: Option<String>,
    /// True for a problem, false for a remark.
    pub problem: bool,
    /// The action of a fix, as a sentence.
    pub remedy: Option<String>,
    /// True if the fix has been done.
    pub fixed: bool,
    /// The reason why the fix failed.
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
