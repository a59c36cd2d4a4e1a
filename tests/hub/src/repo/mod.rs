//! Repositories: the description that a test or a folder gives (`RepoSpec`), and the hub's own state (`Repo`): commits,
//! whose ids are hashes of their content, and branches that point to them.

pub(crate) mod blob;
pub(crate) mod describe;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha1::{Digest, Sha1};

use crate::repo::blob::{Blob, Content};

/// The files of a commit, with their paths in the repository.
pub type Files = Vec<(String, Content)>;

/// The kind of a repository, which is a part of its address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A model.
    #[default]
    Model,
    /// A dataset.
    Dataset,
}

/// The way to get access to a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gated {
    /// Everybody has access.
    #[default]
    No,
    /// The hub grants access on request.
    Auto,
    /// The owner grants access on request.
    Manual,
}

/// A repository to serve.
#[derive(Debug, Clone)]
pub struct RepoSpec {
    /// `name` or `owner/name`.
    pub id: String,
    /// The settings.
    pub settings: RepoSettings,
    /// The files of `main`. Paths are served as given, hostile ones too.
    pub files: Files,
    /// Further branches.
    pub branches: Vec<(String, Files)>,
}

/// The settings of a repository: the content of `.hub.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepoSettings {
    /// The kind of repository.
    pub kind: Kind,
    /// The way to get access.
    pub gated: Gated,
    /// True if only tokens with access see the repository.
    pub private: bool,
    /// True if the hub has disabled the repository.
    pub disabled: bool,
    /// The tokens with access while the repository is gated or private.
    pub tokens: Vec<String>,
    /// The size in bytes from which files are in LFS.
    pub lfs_threshold: u64,
    /// True if the hub offers Xet beside plain HTTP.
    pub xet: bool,
    /// Fields that replace those of the API's answer; null removes a field.
    pub info: Map<String, Value>,
    /// The files that are computed from a seed, by path.
    pub seeded: BTreeMap<String, SeededFile>,
}

/// A file of `.hub.json` that is computed from a seed.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct SeededFile {
    /// The seed.
    pub seed: u64,
    /// The size in bytes.
    pub size: u64,
}

impl Default for RepoSettings {
    fn default() -> Self {
        Self {
            kind: Kind::Model,
            gated: Gated::No,
            private: false,
            disabled: false,
            tokens: Vec::new(),
            lfs_threshold: 10_000_000,
            xet: false,
            info: Map::new(),
            seeded: BTreeMap::new(),
        }
    }
}

impl RepoSpec {
    /// Returns an empty public model.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), settings: RepoSettings::default(), files: Vec::new(), branches: Vec::new() }
    }

    /// Reads a folder: its files, its `.hub.json` and its `.revisions/<branch>/` folders. Other hidden entries except
    /// `.gitattributes` are left out.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be listed, or if `.hub.json` is not valid.
    pub fn folder(id: impl Into<String>, folder: &Path) -> io::Result<Self> {
        let mut spec = Self::new(id);
        match std::fs::read(folder.join(".hub.json")) {
            Ok(bytes) => {
                spec.settings = serde_json::from_slice(&bytes)
                    .map_err(|e| io::Error::other(format!("{}/.hub.json: {e}", folder.display())))?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        spec.files = files_of(folder)?;
        for (path, file) in &spec.settings.seeded {
            spec.files.push((path.clone(), Content::noise(file.seed, file.size)));
        }
        let revisions = folder.join(".revisions");
        if revisions.is_dir() {
            for entry in std::fs::read_dir(revisions)? {
                let entry = entry?;
                let branch = entry.file_name().to_string_lossy().into_owned();
                spec.branches.push((branch, files_of(&entry.path())?));
            }
        }
        Ok(spec)
    }

    /// Adds a file to `main`.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        self.files.push((path.into(), content.into()));
        self
    }

    /// Adds a branch with its own files.
    #[must_use]
    pub fn branch(mut self, name: impl Into<String>, files: Files) -> Self {
        self.branches.push((name.into(), files));
        self
    }

    /// Gates the repository.
    #[must_use]
    pub fn gated(mut self, gated: Gated) -> Self {
        self.settings.gated = gated;
        self
    }

    /// Makes the repository private.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.settings.private = true;
        self
    }

    /// Gives a token access.
    #[must_use]
    pub fn access(mut self, token: impl Into<String>) -> Self {
        self.settings.tokens.push(token.into());
        self
    }

    /// Makes the repository a dataset.
    #[must_use]
    pub fn dataset(mut self) -> Self {
        self.settings.kind = Kind::Dataset;
        self
    }

    /// Sets a field of the API's answer; null removes it.
    #[must_use]
    pub fn info(mut self, field: &str, value: Value) -> Self {
        self.settings.info.insert(field.to_owned(), value);
        self
    }
}

/// Returns all files below `folder`, with their paths relative to it.
///
/// # Errors
/// Returns an error if a folder cannot be listed.
pub fn files_of(folder: &Path) -> io::Result<Files> {
    let mut files = Vec::new();
    let mut waiting = vec![(folder.to_owned(), String::new())];
    while let Some((folder, prefix)) = waiting.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && name != ".gitattributes" {
                continue;
            }
            let path = entry.path();
            if path.is_dir() {
                waiting.push((path, format!("{prefix}{name}/")));
            } else {
                files.push((format!("{prefix}{name}"), Content::Disk(path)));
            }
        }
    }
    Ok(files)
}

/// A repository being served.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    pub id: String,
    pub settings: RepoSettings,
    pub commits: BTreeMap<String, Arc<Commit>>,
    pub branches: BTreeMap<String, String>,
}

/// The files of a commit.
#[derive(Debug)]
pub(crate) struct Commit {
    /// 40 hex digits.
    pub sha: String,
    pub files: BTreeMap<String, Arc<Blob>>,
}

impl Repo {
    pub fn new(spec: RepoSpec) -> io::Result<Self> {
        let mut repo = Self {
            id: spec.id,
            settings: spec.settings,
            commits: BTreeMap::new(),
            branches: BTreeMap::new(),
        };
        repo.commit("main", spec.files)?;
        for (branch, files) in spec.branches {
            repo.commit(&branch, files)?;
        }
        Ok(repo)
    }

    /// Makes a commit of exactly these files and moves `branch` to it.
    pub fn commit(&mut self, branch: &str, files: Files) -> io::Result<String> {
        let mut blobs = BTreeMap::new();
        for (path, content) in files {
            let blob = Blob::new(&path, content, self.settings.lfs_threshold)?;
            blobs.insert(path, Arc::new(blob));
        }
        let mut hash = Sha1::new_with_prefix(&self.id);
        for (path, blob) in &blobs {
            hash.update([0]);
            hash.update(path);
            hash.update([0]);
            hash.update(&blob.oid);
        }
        let sha = hex::encode(hash.finalize());
        self.commits.insert(sha.clone(), Arc::new(Commit { sha: sha.clone(), files: blobs }));
        self.branches.insert(branch.to_owned(), sha.clone());
        Ok(sha)
    }

    /// Returns the commit of a branch or of a full commit id.
    pub fn resolve(&self, revision: &str) -> Option<Arc<Commit>> {
        let branch = revision.strip_prefix("refs/heads/").unwrap_or(revision);
        let sha = self.branches.get(branch).map_or(revision, String::as_str);
        self.commits.get(sha).cloned()
    }

    /// Returns whether a token has access while the repository is gated or private.
    pub fn lets_in(&self, token: Option<&str>) -> bool {
        token.is_some_and(|token| self.settings.tokens.iter().any(|t| t == token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_follows_from_its_content() {
        let spec = RepoSpec::new("a/b").file("x", "1").branch("v1", vec![("x".into(), "1".into())]);
        let mut repo = Repo::new(spec).unwrap();
        let first = repo.resolve("main").unwrap().sha.clone();
        assert_eq!(first.len(), 40);
        assert_eq!(repo.resolve("v1").unwrap().sha, first, "the same files, the same commit");
        let second = repo.commit("main", vec![("x".into(), "2".into())]).unwrap();
        assert_ne!(first, second);
        assert_eq!(repo.resolve("main").unwrap().sha, second);
        assert_eq!(repo.resolve(&first).unwrap().sha, first, "the old commit stays");
        assert!(repo.resolve("nowhere").is_none());
    }
}
