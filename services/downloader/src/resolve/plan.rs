//! The download plan: the files to fetch, and the room that they need. It is saved beside the files, so that a restart
//! resumes without asking the hub.

use std::{fs, io, path::PathBuf};

use millm_kit::ServiceError;
use millm_model::{ModelSpec, TensorInfo, quantize::planned_bytes};
use millm_proto::catalog::v1::Quantization;
use serde::{Deserialize, Serialize};

use super::{
    inspect::{Inspection, expected_tensors},
    quantization,
    select::Weights,
};
use crate::{
    hub::{api_types::RemoteFile, digest::Digest, path::RepoPath},
    store::{
        atomic_file::{read_json, write_json},
        models_dir::{Incoming, QUANTIZED_FILE},
    },
};

const VERSION: u32 = 1;
/// The plan's file name.
pub(crate) const FILE: &str = "plan.json";

/// Room for uncounted files: the manifest, ledgers, the file system's own data.
const MARGIN_BYTES: u64 = 16 << 20;

/// A download plan. It never holds a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DownloadPlan {
    version: u32,
    pub(crate) repo: String,
    pub(crate) commit: String,
    pub(crate) files: Vec<PlannedFile>,
    /// The repository publishes GGUF. It is kept as it is, whatever quantization was requested.
    pub(crate) is_gguf: bool,
    /// Keep the published weights beside the quantized ones.
    pub(crate) keep_source: bool,
    /// The most bytes that the download takes at any time.
    pub(crate) peak_bytes: u64,
}

/// One file to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedFile {
    pub(crate) path: RepoPath,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    /// The file's name in the model's folder.
    pub(crate) save_as: String,
}

impl DownloadPlan {
    /// Makes the plan of an inspected repository.
    pub(crate) fn new(
        inspection: &Inspection,
        spec: &ModelSpec,
        requested: Quantization,
        keep_source: bool,
    ) -> Self {
        let is_gguf = matches!(inspection.weights, Weights::Gguf { .. });
        let save_as =
            |file: &RemoteFile| if is_gguf { QUANTIZED_FILE } else { inspection.name(file) }.to_owned();
        let files = inspection.files.iter().map(|file| PlannedFile {
            path: file.path.clone(),
            size: file.size,
            digest: file.digest,
            save_as: save_as(file),
        });
        let tensors = expected_tensors(spec);
        let quantized = if is_gguf { None } else { quantized_bytes(requested, &tensors, spec) };
        Self {
            version: VERSION,
            repo: inspection.info.repo.to_string(),
            commit: inspection.info.commit.clone(),
            files: files.collect(),
            is_gguf,
            keep_source,
            peak_bytes: peak_bytes(inspection.download_bytes(), quantized),
        }
    }

    /// Returns the bytes to fetch.
    pub(crate) fn download_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Loads the plan that an earlier run saved; `None` when it is for another commit.
    pub(crate) fn load(incoming: &Incoming, commit: &str) -> Option<Self> {
        let plan: Self = read_json(&path(incoming))?;
        // The plan lay on a disk, so names are checked as when they came from the hub.
        let is_plain =
            |file: &PlannedFile| RepoPath::parse(&file.save_as).is_ok_and(|path| path.is_top_level());
        let usable = plan.version == VERSION && plan.commit == commit && plan.files.iter().all(is_plain);
        usable.then_some(plan)
    }

    /// Saves the plan in the place of an earlier one. Verified files of another commit stay only if their digests are the
    /// same.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn save(&self, incoming: &Incoming) -> io::Result<()> {
        incoming.create()?;
        let old: Option<Self> = read_json(&path(incoming));
        if old.as_ref().is_none_or(|old| old.commit != self.commit) {
            let is_same = |name: &str| {
                let digest = |plan: &Self| plan.files.iter().find(|f| f.save_as == name).map(|f| f.digest);
                old.as_ref().and_then(digest).is_some_and(|old| digest(self) == Some(old))
            };
            for entry in fs::read_dir(incoming.path())? {
                let entry = entry?;
                if entry.file_type()?.is_file() && !is_same(&entry.file_name().to_string_lossy()) {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        write_json(&path(incoming), self)
    }

    /// Returns the files with weights, which quantizing replaces.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &PlannedFile> {
        self.files.iter().filter(|file| {
            file.save_as.ends_with(".safetensors") || file.save_as.ends_with(".safetensors.index.json")
        })
    }
}

fn path(incoming: &Incoming) -> PathBuf {
    incoming.path().join(FILE)
}

/// Returns the bytes of the quantized file; `None` when nothing is quantized.
pub(crate) fn quantized_bytes(
    requested: Quantization,
    tensors: &[TensorInfo],
    spec: &ModelSpec,
) -> Option<u64> {
    quantization::scheme(requested).map(|scheme| planned_bytes(scheme, tensors, spec))
}

/// Returns the most bytes at any time: sources and result lie side by side until the sources are removed.
pub(crate) fn peak_bytes(download: u64, quantized: Option<u64>) -> u64 {
    download.saturating_add(quantized.unwrap_or(0)).saturating_add(MARGIN_BYTES)
}

/// Checks that `available` bytes hold the rest of the download: `peak_bytes` less the bytes that are there already.
///
/// # Errors
///
/// INSUFFICIENT_DISK with both numbers.
pub(crate) fn check_room(peak_bytes: u64, present_bytes: u64, available: u64) -> Result<(), ServiceError> {
    let needed = peak_bytes.saturating_sub(present_bytes);
    if needed <= available { Ok(()) } else { Err(ServiceError::insufficient_disk(needed, available)) }
}

#[cfg(test)]
mod tests {
    use millm_kit::Reason;

    use super::*;
    use crate::store::models_dir::ModelsDir;

    #[test]
    fn files_of_another_commit_are_removed_unless_they_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let incoming = ModelsDir::open(folder.path()).unwrap().incoming(1);
        let file = |name: &str, byte: u8| PlannedFile {
            path: RepoPath::parse(name).unwrap(),
            size: 1,
            digest: Digest::GitSha1([byte; 20]),
            save_as: name.to_owned(),
        };
        let plan = |commit: &str, files: Vec<PlannedFile>| DownloadPlan {
            version: VERSION,
            repo: "o/n".to_owned(),
            commit: commit.repeat(40),
            files,
            is_gguf: false,
            keep_source: true,
            peak_bytes: 2,
        };
        let first = plan("a", vec![file("config.json", 1), file("model.safetensors", 2)]);
        first.save(&incoming).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::write(incoming.path().join(name), b"x").unwrap();
        }
        first.save(&incoming).unwrap();
        assert!(incoming.path().join("model.safetensors").exists());
        let second = plan("b", vec![file("config.json", 1), file("model.safetensors", 3)]);
        second.save(&incoming).unwrap();
        assert!(incoming.path().join("config.json").exists());
        assert!(!incoming.path().join("model.safetensors").exists());
        assert_eq!(DownloadPlan::load(&incoming, &second.commit), Some(second));
        assert_eq!(DownloadPlan::load(&incoming, &first.commit), None);
    }

    #[test]
    fn present_bytes_need_no_room() {
        assert!(check_room(100, 0, 100).is_ok());
        assert!(check_room(100, 60, 40).is_ok());
        let error = check_room(100, 0, 99).unwrap_err();
        assert_eq!(error.reason, Reason::InsufficientDisk);
        assert_eq!(
            (error.details["required_bytes"].as_str(), error.details["available_bytes"].as_str()),
            ("100", "99")
        );
        assert!(peak_bytes(u64::MAX, Some(1)) == u64::MAX);
    }
}
