//! The manifest of a finished model, `.millm_meta.json`: which files the folder holds and how they were made. A folder
//! with a manifest and all of its files is complete.

use std::{fs, io, path::Path, time::SystemTime};

use millm_kit::quantization::name as name_of;
use millm_proto::catalog::v1::{Model, ModelFile, Quantization};
use serde::{Deserialize, Serialize};

use super::{
    atomic_file::{read_json, write_json},
    models_dir::Incoming,
};
use crate::{
    hub::{digest::Digest, path::RepoPath},
    resolve::quantization,
};

/// The manifest's file name.
pub(crate) const FILE: &str = ".millm_meta.json";
/// The file of a [`BuildRecord`].
pub(crate) const RECORD_FILE: &str = ".making.json";
const VERSION: u32 = 1;

/// The content of a finished model's folder, and its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    /// The catalog whose model this is. Every catalog counts its ids from 1.
    #[serde(default, rename = "catalog")]
    pub(crate) catalog_id: String,
    pub(crate) model_id: i64,
    /// "huggingface" or "local".
    source: String,
    pub(crate) repo_id: String,
    pub(crate) revision: String,
    pub(crate) commit: String,
    pub(crate) file: String,
    local_path: String,
    requested_quantization: String,
    actual_quantization: String,
    pub(crate) quantization_reason: String,
    pub(crate) original_bytes: u64,
    final_bytes: u64,
    millm_version: String,
    started: String,
    finished: String,
    files: Vec<ManifestEntry>,
}

/// One file as the manifest holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestEntry {
    /// Relative to the model's folder.
    pub(crate) path: String,
    /// In bytes.
    pub(crate) size: u64,
    /// 64 hex digits.
    pub(crate) sha256: String,
}

/// One file of a manifest whose path and digest were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestFile {
    pub(crate) path: RepoPath,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
}

/// The facts about a model's build that its files do not show. They are saved once the model is quantized, so that a
/// crash afterwards repeats nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BuildRecord {
    /// The number of a `Quantization`.
    actual: i32,
    reason: String,
    original_bytes: u64,
    /// Digests that are known already, by file name.
    #[serde(rename = "known")]
    pub(crate) known_digests: Vec<(String, Digest)>,
}

impl BuildRecord {
    /// Makes a record. `reason` says why the actual quantization is not the requested one; empty where it is.
    pub(crate) fn new(actual: Quantization, reason: String, original_bytes: u64) -> Self {
        Self { actual: actual.into(), reason, original_bytes, known_digests: Vec::new() }
    }

    /// Enters the result of quantizing.
    pub(crate) fn set_quantized(&mut self, actual: Quantization, reason: Option<String>) {
        self.actual = actual.into();
        self.reason = reason.unwrap_or_default();
    }

    /// Makes the record of a model that is copied from a finished one. `known_digests` are its verified files.
    pub(crate) fn copied(manifest: &Manifest, known_digests: Vec<(String, Digest)>) -> Self {
        Self {
            actual: manifest.actual_quantization().into(),
            reason: manifest.quantization_reason.clone(),
            original_bytes: manifest.original_bytes,
            known_digests,
        }
    }

    /// Saves the record into a folder that is not finished.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn save(&self, incoming: &Incoming) -> io::Result<()> {
        write_json(&incoming.path().join(RECORD_FILE), self)
    }

    /// Loads the record that [`Self::save`] left.
    pub(crate) fn load(incoming: &Incoming) -> Option<Self> {
        read_json(&incoming.path().join(RECORD_FILE))
    }
}

impl Manifest {
    /// Makes the manifest of `row`'s model with these files.
    pub(crate) fn new(
        row: &Model,
        record: &BuildRecord,
        catalog_id: &str,
        files: Vec<ManifestEntry>,
    ) -> Self {
        let is_hub = row.local_path.is_empty();
        Self {
            version: VERSION,
            catalog_id: catalog_id.to_owned(),
            model_id: row.id,
            source: if is_hub { "huggingface" } else { "local" }.to_owned(),
            repo_id: row.repo_id.clone(),
            revision: row.revision.clone(),
            commit: row.commit.clone(),
            file: row.file.clone(),
            local_path: row.local_path.clone(),
            requested_quantization: name_of(row.requested_quantization()).to_owned(),
            actual_quantization: name_of(Quantization::try_from(record.actual).unwrap_or_default())
                .to_owned(),
            quantization_reason: record.reason.clone(),
            original_bytes: record.original_bytes,
            final_bytes: files.iter().map(|file| file.size).sum(),
            millm_version: env!("CARGO_PKG_VERSION").to_owned(),
            started: row.create_time.map(|time| time.to_string()).unwrap_or_default(),
            finished: prost_types::Timestamp::from(SystemTime::now()).to_string(),
            files,
        }
    }

    /// Reads the manifest of a complete folder; `None` otherwise.
    pub(crate) fn read_complete(folder: &Path) -> Option<Self> {
        Self::read(folder).filter(|manifest| manifest.is_complete(folder))
    }

    /// Reads the manifest of a folder that may have lost files since.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        read_json(&folder.join(FILE)).filter(|manifest: &Self| manifest.version == VERSION)
    }

    /// Returns whether all files are there in their full length.
    pub(crate) fn is_complete(&self, folder: &Path) -> bool {
        let has_size =
            |file: &ManifestEntry| fs::metadata(folder.join(&file.path)).is_ok_and(|m| m.len() == file.size);
        self.files.iter().all(has_size)
    }

    /// Returns the files. The manifest lay on a disk, so names are checked as when they came from the hub.
    pub(crate) fn files(&self) -> Vec<ManifestFile> {
        let file = |file: &ManifestEntry| {
            let digest = Digest::sha256(&file.sha256)?;
            Some(ManifestFile { path: RepoPath::parse(&file.path).ok()?, size: file.size, digest })
        };
        self.files.iter().filter_map(file).collect()
    }

    /// Returns the quantization that the model has.
    pub(crate) fn actual_quantization(&self) -> Quantization {
        let is_named = |q: &Quantization| name_of(*q) == self.actual_quantization;
        quantization::ALL.into_iter().find(is_named).unwrap_or_default()
    }

    /// Returns whether this model was made from the same files in the same way as `row` asks for, in any catalog.
    pub(crate) fn is_identical_to(&self, row: &Model) -> bool {
        self.source == "huggingface"
            && row.local_path.is_empty()
            && self.repo_id.eq_ignore_ascii_case(&row.repo_id)
            && (&self.commit, &self.file) == (&row.commit, &row.file)
            && self.requested_quantization == name_of(row.requested_quantization())
    }

    /// Returns whether this is the model of `row` in the catalog `catalog_id`. The row's id alone proves nothing: a
    /// new database counts its ids anew.
    pub(crate) fn belongs_to(&self, row: &Model, catalog_id: &str) -> bool {
        self.model_id == row.id
            && self.catalog_id == catalog_id
            && (&self.repo_id, &self.file, &self.local_path) == (&row.repo_id, &row.file, &row.local_path)
            && (row.commit.is_empty() || self.commit == row.commit)
            && self.requested_quantization == name_of(row.requested_quantization())
    }

    /// Writes quantization, size and files into a row.
    pub(crate) fn fill_row(&self, row: &mut Model) {
        row.set_actual_quantization(self.actual_quantization());
        row.quantization_reason.clone_from(&self.quantization_reason);
        row.disk_size_bytes = self.final_bytes as i64;
        row.files = self
            .files
            .iter()
            .map(|file| ModelFile {
                path: file.path.clone(),
                size_bytes: file.size as i64,
                sha256: file.sha256.clone(),
            })
            .collect();
    }
}
