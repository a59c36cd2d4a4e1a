//! The models folder: where a model is while it arrives and where it is when it is there. Nothing outside of it
//! is ever removed.
//!
//! ```text
//! huggingface/google--gemma-2-2b--Q4/   a finished model
//! huggingface/.incoming-7-5e1f…/        model 7 of catalogue 5e1f… on its way; .partial/ within holds what is
//!                                       incomplete
//! local/name--7                         a link to a person's own folder or file
//! local-quantized/name--7--Q8/          made from a person's own model
//! .locks/                               held by those who fetch: the same model only once, in however many processes
//! ```
//!
//! Several catalogues may share it: each file of ours says which one it belongs to, and what is another's stays.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use millm_kit::names::RepoId;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::BuildError;

const INCOMING: &str = ".incoming-";
const CANCELLED: &str = "cancelled";

#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    /// Whose models we keep: known once the Catalog has answered, before anything is written.
    catalog: Arc<OnceLock<String>>,
}

impl Cache {
    /// Makes the folders, and shows that they can be written.
    pub fn open(root: &Path) -> Result<Self, BuildError> {
        let prepare = || -> io::Result<PathBuf> {
            for folder in ["huggingface", "local", "local-quantized"] {
                fs::create_dir_all(root.join(folder))?;
            }
            tempfile::tempfile_in(root.join("huggingface"))?;
            root.canonicalize()
        };
        let root = prepare().map_err(|source| BuildError::Folder { path: root.to_owned(), source })?;
        Ok(Self { root, catalog: Arc::default() })
    }

    /// From here on files are this catalogue's. What could not be part of a file's name counts as none.
    pub fn keep_for(&self, catalog: &str) {
        let plain = catalog.bytes().all(|b| b.is_ascii_alphanumeric()) && catalog.len() <= 64;
        // A second answer is the same.
        let _ = self.catalog.set(if plain { catalog } else { "" }.to_owned());
    }

    pub fn catalog(&self) -> &str {
        self.catalog.get().map_or("", String::as_str)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn huggingface(&self) -> PathBuf {
        self.root.join("huggingface")
    }

    /// Where a model is on its way.
    pub fn incoming(&self, id: i64) -> Incoming {
        let name = match self.catalog() {
            "" => format!("{INCOMING}{id}"),
            catalog => format!("{INCOMING}{id}-{catalog}"),
        };
        Incoming { path: self.huggingface().join(name) }
    }

    /// Every model on its way: its id where it is this catalogue's, and its folder.
    pub fn all_incoming(&self) -> io::Result<Vec<(Option<i64>, Incoming)>> {
        let found = fs::read_dir(self.huggingface())?.filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let (id, catalog) = match name.strip_prefix(INCOMING)?.split_once('-') {
                Some((id, catalog)) => (id, catalog),
                None => (name.strip_prefix(INCOMING)?, ""),
            };
            let ours = catalog == self.catalog();
            Some((id.parse().ok().filter(|_| ours), Incoming { path: entry.path() }))
        });
        Ok(found.collect())
    }

    /// The lock that whoever makes this model holds.
    pub fn lock(&self, model: &str) -> PathBuf {
        self.root.join(".locks").join(format!("{model}.lock"))
    }

    /// The folder name of a finished hub model, before collisions are counted.
    pub fn hub_folder(&self, repo: &RepoId, quantization: &str, file: &str) -> PathBuf {
        let mut name = format!("{}--{}--{quantization}", repo.owner(), repo.name());
        if !file.is_empty() {
            let stem = match file.strip_suffix(".gguf") {
                Some(stem) => stem.rsplit('/').next().unwrap_or(stem),
                // Of a model in a folder, the folder.
                None => file.rsplit_once('/').map_or(file, |(folder, _)| folder),
            };
            let plain =
                stem.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' });
            name.push_str("--");
            // Names of files end at 255 bytes; a number may follow.
            name.extend(plain.take(220_usize.saturating_sub(name.len())));
        }
        self.huggingface().join(name)
    }

    pub fn quantized_local_folder(&self, handle: &str, id: i64, quantization: &str) -> PathBuf {
        // Names of files end at 255 bytes.
        let handle: String = handle.chars().take(200).collect();
        self.root.join("local-quantized").join(format!("{handle}--{id}--{quantization}"))
    }

    /// Links a person's own model, to be browsed; a link of the same model is replaced.
    pub fn link_local(&self, handle: &str, id: i64, target: &Path) -> io::Result<()> {
        self.unlink_local(id)?;
        let handle: String = handle.chars().take(200).collect();
        std::os::unix::fs::symlink(target, self.root.join("local").join(format!("{handle}--{id}")))
    }

    /// Removes the link of a model, whatever the model was called when it was made. Never what it points to.
    pub fn unlink_local(&self, id: i64) -> io::Result<()> {
        let ending = format!("--{id}");
        for entry in fs::read_dir(self.root.join("local"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(&ending) && entry.file_type()?.is_symlink() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The links to people's own models.
    pub fn links(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.root.join("local"))?.flatten();
        Ok(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_symlink())).map(|e| e.path()).collect())
    }

    /// Removes a finished model's folder. What is not a folder of ours stays: a link, a person's own files.
    pub fn remove_finished(&self, folder: &Path) -> io::Result<()> {
        let ours = ["huggingface", "local-quantized"].map(|name| self.root.join(name));
        // `..` has no file name.
        let is_ours = folder.file_name().is_some()
            && folder.parent().is_some_and(|parent| ours.iter().any(|our| our == parent));
        match fs::symlink_metadata(folder) {
            Ok(metadata) if is_ours && metadata.is_dir() => fs::remove_dir_all(folder),
            _ => Ok(()),
        }
    }

    /// Finished folders, for reconciling.
    pub fn finished(&self) -> io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for parent in ["huggingface", "local-quantized"] {
            for entry in fs::read_dir(self.root.join(parent))? {
                let entry = entry?;
                let hidden = entry.file_name().to_string_lossy().starts_with('.');
                if !hidden && entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(folders)
    }
}

/// A model's folder while it arrives: its files under their final names once verified, the rest in `.partial`.
#[derive(Debug, Clone)]
pub struct Incoming {
    path: PathBuf,
}

impl Incoming {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn partials(&self) -> PathBuf {
        self.path.join(".partial")
    }

    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.partials())
    }

    /// Everything goes; that nothing is there is no error.
    pub fn remove(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(&self.path))
    }

    /// Everything goes but the note that it was cancelled, so that a restart cannot bring it back.
    pub fn cancel(&self) -> io::Result<()> {
        self.remove()?;
        fs::create_dir_all(&self.path)?;
        fs::write(self.path.join(CANCELLED), b"")
    }

    pub fn is_cancelled(&self) -> bool {
        self.path.join(CANCELLED).exists()
    }

    /// Bytes that it takes on the disk, all files.
    pub fn bytes(&self) -> u64 {
        fn sum(folder: &Path) -> u64 {
            let Ok(entries) = fs::read_dir(folder) else { return 0 };
            entries
                .flatten()
                .map(|entry| match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => sum(&entry.path()),
                    // A partial is as long as its file from the start, whether or not the disk has set that aside.
                    Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
                    Err(_) => 0,
                })
                .sum()
        }
        sum(&self.path)
    }
}

/// Writes beside and renames: readers see the old or the new, whole.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    fs::write(&beside, serde_json::to_vec_pretty(value)?)?;
    fs::rename(beside, path)
}

/// `None` when absent or not readable as such: what a crash left half-written counts as not there.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Makes what is in a folder, and its names, survive a power cut.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    fs::File::open(folder)?.sync_all()
}

pub fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_folders_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("mine");
        fs::create_dir_all(&outside).unwrap();
        let cache = Cache::open(&folder.path().join("models")).unwrap();
        let ours = cache.hub_folder(&RepoId::parse("o/n").unwrap(), "Q4", "sub/a b.gguf");
        assert!(ours.ends_with("huggingface/o--n--Q4--a_b"));
        let below = cache.hub_folder(&RepoId::parse("o/n").unwrap(), "Q4", "x/y/model.safetensors");
        assert!(below.ends_with("huggingface/o--n--Q4--x_y"));
        fs::create_dir_all(&ours).unwrap();
        let sneaky = cache.root().join("huggingface/link");
        std::os::unix::fs::symlink(&outside, &sneaky).unwrap();
        for path in [outside.as_path(), &sneaky, &cache.root().join("huggingface/.."), cache.root(), &ours] {
            cache.remove_finished(path).unwrap();
        }
        assert!(outside.exists() && cache.root().join("huggingface").exists() && !ours.exists());
    }

    #[test]
    fn catalogues_that_share_a_folder_keep_apart() {
        let folder = tempfile::tempdir().unwrap();
        let caches = ["", "ab12", "cd34"].map(|catalog| {
            let cache = Cache::open(folder.path()).unwrap();
            cache.keep_for(catalog);
            cache.incoming(7).create().unwrap();
            cache
        });
        for cache in &caches {
            let all = cache.all_incoming().unwrap();
            let ours: Vec<_> =
                all.iter().filter_map(|(id, incoming)| id.map(|id| (id, incoming.path()))).collect();
            assert_eq!((all.len(), ours), (3, vec![(7, cache.incoming(7).path())]));
        }
        let odd = Cache::open(folder.path()).unwrap();
        odd.keep_for("../x");
        assert_eq!(odd.catalog(), "");
    }

    #[test]
    fn links_are_found_after_a_rename() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        cache.link_local("old", 7, folder.path()).unwrap();
        cache.link_local("new", 7, folder.path()).unwrap();
        cache.link_local("other", 17, folder.path()).unwrap();
        cache.unlink_local(7).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path().join("local")).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert!(folder.path().exists());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = Cache::open(&file.join("models")).unwrap_err().to_string();
        assert!(error.contains("cannot be written"), "{error}");
    }
}
