//! What a download has to fetch, as it lies in its folder: with it a restart goes on without asking the hub again.

use std::{fs, io, path::PathBuf};

use millm_kit::ServiceError;
use millm_model::{ModelSpec, TensorInfo, quantize::planned_bytes};
use millm_proto::catalog::v1::Quantization;
use serde::{Deserialize, Serialize};

use crate::{
    cache::{Incoming, read_json, write_json},
    digest::Digest,
    hub::{RemoteFile, RepoPath},
    quantization,
    select::Weights,
    survey::{Survey, expected_tensors},
};

const VERSION: u32 = 1;
pub const FILE: &str = "plan.json";

/// Room beside what is counted: metadata, ledgers, the file system's own.
const MARGIN_BYTES: u64 = 16 << 20;

/// Never holds a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    version: u32,
    pub repo: String,
    pub commit: String,
    pub files: Vec<PlannedFile>,
    /// Published as GGUF: kept as it is, whatever quantization was asked for.
    pub is_gguf: bool,
    /// Keeps the published weights beside the quantized ones.
    pub keep_source: bool,
    /// Bytes that all this takes at its highest point.
    pub peak_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    pub path: RepoPath,
    pub size: u64,
    pub digest: Digest,
    /// Its name in the model's folder.
    pub save_as: String,
}

impl Plan {
    pub fn new(survey: &Survey, spec: &ModelSpec, asked: Quantization, keep_source: bool) -> Self {
        let is_gguf = matches!(survey.weights, Weights::Gguf { .. });
        let save_as = |file: &RemoteFile| if is_gguf { "model.gguf" } else { survey.name(file) }.to_owned();
        let files = survey.files.iter().map(|file| PlannedFile {
            path: file.path.clone(),
            size: file.size,
            digest: file.digest,
            save_as: save_as(file),
        });
        let tensors = expected_tensors(spec);
        let made = if is_gguf { None } else { made_bytes(asked, &tensors, spec) };
        Self {
            version: VERSION,
            repo: survey.info.repo.to_string(),
            commit: survey.info.commit.clone(),
            files: files.collect(),
            is_gguf,
            keep_source,
            peak_bytes: peak_bytes(survey.download_bytes(), made),
        }
    }

    pub fn download_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// What a crash left; `None` when it is not of this commit.
    pub fn load(incoming: &Incoming, commit: &str) -> Option<Self> {
        let plan: Self = read_json(&path(incoming))?;
        // It lay on a disk: names are checked as they were when they came.
        let plain = |file: &PlannedFile| RepoPath::parse(&file.save_as).is_ok_and(|path| path.is_top_level());
        let usable = plan.version == VERSION && plan.commit == commit && plan.files.iter().all(plain);
        usable.then_some(plan)
    }

    /// Takes the place of an earlier plan. Verified files of another commit stay only where they are the same.
    pub fn save(&self, incoming: &Incoming) -> io::Result<()> {
        incoming.create()?;
        let old: Option<Self> = read_json(&path(incoming));
        if old.as_ref().is_none_or(|old| old.commit != self.commit) {
            let same = |name: &str| {
                let digest = |plan: &Self| plan.files.iter().find(|f| f.save_as == name).map(|f| f.digest);
                old.as_ref().and_then(digest).is_some_and(|old| digest(self) == Some(old))
            };
            for entry in fs::read_dir(incoming.path())? {
                let entry = entry?;
                if entry.file_type()?.is_file() && !same(&entry.file_name().to_string_lossy()) {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        write_json(&path(incoming), self)
    }

    /// Files that are weights: what quantizing replaces.
    pub fn weights(&self) -> impl Iterator<Item = &PlannedFile> {
        self.files.iter().filter(|file| {
            file.save_as.ends_with(".safetensors") || file.save_as.ends_with(".safetensors.index.json")
        })
    }
}

fn path(incoming: &Incoming) -> PathBuf {
    incoming.path().join(FILE)
}

/// Bytes of the quantized file; `None` when nothing is made.
pub fn made_bytes(asked: Quantization, tensors: &[TensorInfo], spec: &ModelSpec) -> Option<u64> {
    quantization::scheme(asked).map(|scheme| planned_bytes(scheme, tensors, spec))
}

/// Sources and result lie side by side until the sources go.
pub fn peak_bytes(download: u64, made: Option<u64>) -> u64 {
    download.saturating_add(made.unwrap_or(0)).saturating_add(MARGIN_BYTES)
}

/// INSUFFICIENT_DISK when `available` does not hold what is still to be written.
pub fn check_room(peak_bytes: u64, present_bytes: u64, available: u64) -> Result<(), ServiceError> {
    let needed = peak_bytes.saturating_sub(present_bytes);
    if needed <= available { Ok(()) } else { Err(ServiceError::insufficient_disk(needed, available)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millm_kit::Reason;

    #[test]
    fn files_of_another_commit_do_not_pass_for_this_ones() {
        let folder = tempfile::tempdir().unwrap();
        let incoming = crate::cache::Cache::open(folder.path()).unwrap().incoming(1);
        let file = |name: &str, byte: u8| PlannedFile {
            path: RepoPath::parse(name).unwrap(),
            size: 1,
            digest: Digest::GitSha1([byte; 20]),
            save_as: name.to_owned(),
        };
        let plan = |commit: &str, files: Vec<PlannedFile>| Plan {
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
        assert_eq!(Plan::load(&incoming, &second.commit), Some(second));
        assert_eq!(Plan::load(&incoming, &first.commit), None);
    }

    #[test]
    fn room_counts_what_is_there_already() {
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
