//! The files that a hub publishes, read over HTTP so that any hub will do, for comparison with a model on disk.

use std::collections::BTreeMap;
use std::path::Path;

use fake_hub::git_oid;
use millm_proto::catalog::v1::Model;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Rest;

/// The files of a repository's revision.
#[derive(Debug, Clone)]
pub struct Published(BTreeMap<String, PublishedFile>);

#[derive(Debug, Clone)]
struct PublishedFile {
    size: u64,
    hash: Hash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hash {
    Sha256(String),
    Git(String),
}

impl Published {
    pub async fn of(hub: &str, repo: &str) -> Self {
        let path = format!("/api/models/{repo}/tree/main?recursive=true&expand=false");
        let answer = Rest::new(hub).get(&path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let entries = answer.json.as_array().expect("a tree is a list").iter();
        let files = entries.filter(|entry| entry["type"] == "file").map(|entry| {
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            let hash = match entry.pointer("/lfs/oid") {
                Some(oid) => Hash::Sha256(text(oid)),
                None => Hash::Git(text(&entry["oid"])),
            };
            let size = entry["size"].as_u64().expect("a size");
            (text(&entry["path"]), PublishedFile { size, hash })
        });
        Self(files.collect())
    }

    pub fn size(&self, path: &str) -> u64 {
        self.0[path].size
    }

    /// Returns the published file with this name, or with this size: the only file of weights may have another name
    /// on disk.
    fn counterpart(&self, path: &str, size: u64) -> &PublishedFile {
        let renamed = || self.0.values().find(|file| file.size == size);
        self.0.get(path).or_else(renamed).unwrap_or_else(|| panic!("{path} was never published"))
    }

    /// Checks that the model's folder holds exactly these files, byte for byte, beside miLLM's own manifest.
    pub fn assert_kept(&self, model: &Model) {
        let folder = Path::new(&model.storage_path);
        assert!(!model.files.is_empty(), "{model:?}");
        for file in &model.files {
            let published = self.counterpart(&file.path, file.size_bytes as u64);
            let bytes = std::fs::read(folder.join(&file.path)).expect("what is listed is there");
            assert_eq!(bytes.len() as u64, published.size, "{}", file.path);
            let hash = match &published.hash {
                Hash::Sha256(_) => Hash::Sha256(hex::encode(Sha256::digest(&bytes))),
                Hash::Git(_) => Hash::Git(git_oid(&bytes)),
            };
            assert_eq!(hash, published.hash, "{}", file.path);
        }
        let listed: Vec<_> = model.files.iter().map(|file| folder.join(&file.path)).collect();
        for path in files_below(folder) {
            let ours = path.file_name().is_some_and(|name| name == ".millm_meta.json");
            assert!(ours || listed.contains(&path), "{} is left", path.display());
        }
    }
}

/// Returns the regular files below a folder, or none if the folder does not exist.
pub fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.expect("readable").path()) {
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}
