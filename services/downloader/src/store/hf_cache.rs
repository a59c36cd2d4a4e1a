//! The cache of Hugging Face's own tools. It is only read, never written:
//!
//! ```text
//! models--google--gemma-2-2b/refs/main                     the commit of a branch
//! models--google--gemma-2-2b/snapshots/<commit>/<path>     a link to ../../blobs/<digest>
//! models--google--gemma-2-2b/blobs/<digest>                SHA-256 of a large file, git's SHA-1 of a small one
//! ```
//!
//! Its digests are hints: a file counts only once its content was hashed.
//!
//! The `hf-hub` crate is not used here: of this layout its 0.5 offers the path of one named file and its 1.x a scan of
//! the whole cache through an HTTP client with the Xet transfer stack, and neither bounds what it reads, looks a digest
//! up, or ignores the case of a repository's name.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use millm_kit::names::{RepoId, is_commit};

use crate::hub::{api_types::RemoteFile, digest::Digest, path::RepoPath};

/// A snapshot with more files counts as empty.
const MAX_FILES: usize = 10_000;
/// A ref file is read up to this length, in bytes.
const MAX_REF_BYTES: u64 = 100;

/// A read-only view of one Hugging Face cache.
#[derive(Debug, Clone)]
pub(crate) struct HfCache {
    root: PathBuf,
}

impl HfCache {
    /// Makes a view of the cache at `root`, which may be missing.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Returns the cache's folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the files that are named after this digest, in any repository.
    pub(crate) fn blobs(&self, digest: &Digest) -> Vec<PathBuf> {
        let name = digest.hex();
        self.repos()
            .into_iter()
            .map(|repo| repo.join("blobs").join(&name))
            .filter(|path| path.is_file())
            .collect()
    }

    /// Returns the commit of `revision` when the cache was last updated.
    pub(crate) fn commit(&self, repo: &RepoId, revision: &str) -> Option<String> {
        let folder = self.repo(repo)?;
        if is_commit(revision) {
            return folder.join("snapshots").join(revision).is_dir().then(|| revision.to_owned());
        }
        let text = read_short(&folder.join("refs").join(revision)).ok()?;
        Some(text.trim()).filter(|commit| is_commit(commit)).map(str::to_owned)
    }

    /// Returns the files of a commit that are in the cache, each with its path on the disk.
    pub(crate) fn snapshot(&self, repo: &RepoId, commit: &str) -> Vec<(RemoteFile, PathBuf)> {
        let Some(folder) = self.repo(repo).map(|repo| repo.join("snapshots").join(commit)) else {
            return Vec::new();
        };
        let (mut found, mut folders) = (Vec::new(), vec![(folder, String::new())]);
        while let Some((folder, prefix)) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                let name = format!("{prefix}{}", name.to_string_lossy());
                // Links to folders are not followed: they could form a circle.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push((path, format!("{name}/")));
                } else if let Some(file) = described(&path, &name) {
                    found.push((file, path));
                }
                if found.len() + folders.len() > MAX_FILES {
                    return Vec::new();
                }
            }
        }
        found
    }

    fn repos(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries
            .filter(|e| e.file_name().to_string_lossy().starts_with("models--"))
            .map(|e| e.path())
            .collect()
    }

    /// The hub ignores the case of repository names.
    fn repo(&self, repo: &RepoId) -> Option<PathBuf> {
        let wanted = format!("models--{}--{}", repo.owner(), repo.name());
        let is_it = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().eq_ignore_ascii_case(&wanted))
        };
        self.repos().into_iter().find(is_it)
    }
}

fn described(path: &Path, name: &str) -> Option<RemoteFile> {
    let blob = fs::read_link(path).ok()?;
    let digits = blob.file_name()?.to_str()?;
    let digest = Digest::sha256(digits).or_else(|| Digest::git(digits))?;
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some(RemoteFile { path: RepoPath::parse(name).ok()?, size: metadata.len(), digest })
}

fn read_short(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_REF_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes files into a cache as `huggingface_hub` does, and returns their commit.
    pub(crate) fn fill(root: &Path, repo: &str, files: &[(&str, &[u8])]) -> String {
        let commit = "c0".repeat(20);
        let folder = root.join(format!("models--{}", repo.replace('/', "--")));
        for (name, content) in files {
            let blank =
                if content.len() > 1 << 20 { Digest::Sha256([0; 32]) } else { Digest::GitSha1([0; 20]) };
            let mut hasher = blank.hasher(content.len() as u64);
            hasher.update(content);
            let blob = folder.join("blobs").join(hasher.finish().hex());
            let link = folder.join("snapshots").join(&commit).join(name);
            fs::create_dir_all(blob.parent().unwrap()).unwrap();
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            fs::write(&blob, content).unwrap();
            std::os::unix::fs::symlink(&blob, link).unwrap();
        }
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), &commit).unwrap();
        commit
    }

    #[test]
    fn commits_snapshots_and_blobs_are_found() {
        let root = tempfile::tempdir().unwrap();
        let commit = fill(root.path(), "Google/Gemma", &[("config.json", b"{}"), ("sub/x.txt", b"hello")]);
        let cache = HfCache::new(root.path().to_owned());
        let repo = RepoId::parse("google/gemma").unwrap();
        assert_eq!(cache.commit(&repo, "main"), Some(commit.clone()));
        assert_eq!(cache.commit(&repo, &commit), Some(commit.clone()));
        assert_eq!(cache.commit(&repo, "v2"), None);
        let mut names: Vec<_> = cache
            .snapshot(&repo, &commit)
            .into_iter()
            .map(|(file, _)| (file.path.to_string(), file.size))
            .collect();
        names.sort();
        assert_eq!(names, [("config.json".to_owned(), 2), ("sub/x.txt".to_owned(), 5)]);
        // `printf hello | git hash-object --stdin`
        let hello = Digest::git("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0").unwrap();
        assert_eq!(cache.blobs(&hello).len(), 1);
        assert!(cache.blobs(&Digest::GitSha1([7; 20])).is_empty());
    }

    #[test]
    fn links_and_damaged_refs_are_ignored() {
        let root = tempfile::tempdir().unwrap();
        let commit = fill(root.path(), "o/n", &[("config.json", b"{}")]);
        let snapshot = root.path().join("models--o--n/snapshots").join(&commit);
        fs::write(snapshot.join("loose.txt"), b"x").unwrap();
        std::os::unix::fs::symlink(&snapshot, snapshot.join("circle")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", snapshot.join("0".repeat(40))).unwrap();
        fs::write(root.path().join("models--o--n/refs/bad"), "../../x").unwrap();
        let cache = HfCache::new(root.path().to_owned());
        let repo = RepoId::parse("o/n").unwrap();
        assert_eq!(cache.snapshot(&repo, &commit).len(), 1);
        assert_eq!(cache.commit(&repo, "bad"), None);
        assert!(HfCache::new("/no/such/place".into()).snapshot(&repo, &commit).is_empty());
    }
}
