//! The models folder: where a model lies while it is downloaded, and where it lies once it is finished. Nothing
//! outside of this folder is ever removed.
//!
//! ```text
//! huggingface/google--gemma-2-2b--Q4/   a finished model
//! huggingface/.incoming-7-5e1f…/        model 7 of catalog 5e1f… during its download; .partial/ in it holds
//!                                       incomplete files
//! local/name--7                         a link to a person's own folder or file
//! local-quantized/name--7--Q8/          a model quantized from a person's own model
//! .locks/                               one lock for each model that is being made, over all processes
//! datasets/                             datasets from the hub (`datasets_dir`)
//! ```
//!
//! Several catalogs may share the folder. Each file of ours names its catalog, and other catalogs' files are
//! left alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use millm_kit::{ServiceError, names::RepoId, quantization::name as name_of};
use millm_proto::catalog::v1::Model;

use super::atomic_file::ignore_not_found;
use crate::error::BuildError;

const INCOMING: &str = ".incoming-";
const CANCELLED: &str = "cancelled";

/// The quantized model in its folder.
pub(crate) const QUANTIZED_FILE: &str = "model.gguf";
/// The folder of kept sources in a model's folder. Sources beside the quantized file would pass for its weights.
pub(crate) const SOURCE_FOLDER: &str = "source";

/// The models folder. It is cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ModelsDir {
    root: PathBuf,
    /// The catalog whose models these are. It is set once the Catalog has answered, before anything is written.
    catalog_id: Arc<OnceLock<String>>,
}

impl ModelsDir {
    /// Makes the folders and checks that they can be written.
    ///
    /// # Errors
    ///
    /// Returns [`BuildError::Folder`].
    pub(crate) fn open(root: &Path) -> Result<Self, BuildError> {
        let prepare = || -> io::Result<PathBuf> {
            for folder in ["huggingface", "local", "local-quantized"] {
                fs::create_dir_all(root.join(folder))?;
            }
            tempfile::tempfile_in(root.join("huggingface"))?;
            root.canonicalize()
        };
        let root = prepare().map_err(|source| BuildError::Folder { path: root.to_owned(), source })?;
        Ok(Self { root, catalog_id: Arc::default() })
    }

    /// Sets the catalog to which new files belong. An id that cannot be part of a file name counts as empty.
    pub(crate) fn bind_catalog(&self, catalog_id: &str) {
        let is_plain = catalog_id.bytes().all(|b| b.is_ascii_alphanumeric()) && catalog_id.len() <= 64;
        // The Catalog always gives the same id, so a second call changes nothing.
        let _ = self.catalog_id.set(if is_plain { catalog_id } else { "" }.to_owned());
    }

    /// Returns the id that [`Self::bind_catalog`] set; empty before.
    pub(crate) fn catalog_id(&self) -> &str {
        self.catalog_id.get().map_or("", String::as_str)
    }

    /// Returns the models folder, with its links resolved.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn huggingface(&self) -> PathBuf {
        self.root.join("huggingface")
    }

    /// Returns the folder of a model during its download.
    pub(crate) fn incoming(&self, id: i64) -> Incoming {
        let name = match self.catalog_id() {
            "" => format!("{INCOMING}{id}"),
            catalog_id => format!("{INCOMING}{id}-{catalog_id}"),
        };
        Incoming { path: self.huggingface().join(name) }
    }

    /// Returns the folders of all models that are not finished, with the model's id where it is this catalog's.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn all_incoming(&self) -> io::Result<Vec<(Option<i64>, Incoming)>> {
        let found = fs::read_dir(self.huggingface())?.filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let (id, catalog_id) = match name.strip_prefix(INCOMING)?.split_once('-') {
                Some((id, catalog_id)) => (id, catalog_id),
                None => (name.strip_prefix(INCOMING)?, ""),
            };
            let is_ours = catalog_id == self.catalog_id();
            Some((id.parse().ok().filter(|_| is_ours), Incoming { path: entry.path() }))
        });
        Ok(found.collect())
    }

    /// Returns the path of a model's lock. `model` is the name of its final folder.
    pub(crate) fn lock(&self, model: &str) -> PathBuf {
        self.root.join(".locks").join(format!("{model}.lock"))
    }

    /// Returns the folder of a finished model, unless another model has that name already.
    ///
    /// # Errors
    ///
    /// INVALID_REPO_ID when the row's repository is malformed.
    pub(crate) fn final_folder(&self, row: &Model) -> Result<PathBuf, ServiceError> {
        let quantization = name_of(row.requested_quantization());
        if !row.local_path.is_empty() {
            return Ok(self.quantized_local_folder(&row.handle, row.id, quantization));
        }
        // A GGUF file is kept as published, so its folder says NATIVE.
        let quantization = if row.file.ends_with(".gguf") { "NATIVE" } else { quantization };
        Ok(self.hub_folder(&RepoId::parse(&row.repo_id)?, quantization, &row.file))
    }

    /// Returns the folder of a finished hub model, before names that are taken are numbered.
    pub(crate) fn hub_folder(&self, repo: &RepoId, quantization: &str, file: &str) -> PathBuf {
        let mut name = format!("{}--{}--{quantization}", repo.owner(), repo.name());
        if !file.is_empty() {
            let stem = match file.strip_suffix(".gguf") {
                Some(stem) => stem.rsplit('/').next().unwrap_or(stem),
                // A model in a subfolder is named after the folder.
                None => file.rsplit_once('/').map_or(file, |(folder, _)| folder),
            };
            let plain =
                stem.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' });
            name.push_str("--");
            // File names end at 255 bytes, and a number may follow.
            name.extend(plain.take(220_usize.saturating_sub(name.len())));
        }
        self.huggingface().join(name)
    }

    fn quantized_local_folder(&self, handle: &str, id: i64, quantization: &str) -> PathBuf {
        // File names end at 255 bytes.
        let handle: String = handle.chars().take(200).collect();
        self.root.join("local-quantized").join(format!("{handle}--{id}--{quantization}"))
    }

    /// Links a person's own model into `local/`, for browsing. An older link of the same model is replaced.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn link_local(&self, handle: &str, id: i64, target: &Path) -> io::Result<()> {
        self.unlink_local(id)?;
        let handle: String = handle.chars().take(200).collect();
        std::os::unix::fs::symlink(target, self.root.join("local").join(format!("{handle}--{id}")))
    }

    /// Removes the link of a model, under whatever handle it was made. The link's target stays.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn unlink_local(&self, id: i64) -> io::Result<()> {
        let ending = format!("--{id}");
        for entry in fs::read_dir(self.root.join("local"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(&ending) && entry.file_type()?.is_symlink() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Returns the links to people's own models.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn links(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.root.join("local"))?.flatten();
        Ok(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_symlink())).map(|e| e.path()).collect())
    }

    /// Removes the folder of a finished model. Everything else stays: a link, a person's own files.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn remove_finished(&self, folder: &Path) -> io::Result<()> {
        let parents = ["huggingface", "local-quantized"].map(|name| self.root.join(name));
        // `..` has no file name.
        let is_ours = folder.file_name().is_some()
            && folder.parent().is_some_and(|parent| parents.iter().any(|ours| ours == parent));
        match fs::symlink_metadata(folder) {
            Ok(metadata) if is_ours && metadata.is_dir() => fs::remove_dir_all(folder),
            _ => Ok(()),
        }
    }

    /// Returns the folders of all finished models.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn finished(&self) -> io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for parent in ["huggingface", "local-quantized"] {
            for entry in fs::read_dir(self.root.join(parent))? {
                let entry = entry?;
                let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
                if !is_hidden && entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(folders)
    }
}

/// A model's folder during its download. Verified files have their final names; incomplete ones lie in `.partial`.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    path: PathBuf,
}

impl Incoming {
    /// Returns the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder of incomplete files.
    pub(crate) fn partials(&self) -> PathBuf {
        self.path.join(".partial")
    }

    /// Makes the folder and its `.partial`.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.partials())
    }

    /// Removes the folder. A missing folder counts as success.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn remove(&self) -> io::Result<()> {
        ignore_not_found(fs::remove_dir_all(&self.path))
    }

    /// Removes everything but a note that the download was cancelled, so that a restart does not resume it.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn cancel(&self) -> io::Result<()> {
        self.remove()?;
        fs::create_dir_all(&self.path)?;
        fs::write(self.path.join(CANCELLED), b"")
    }

    /// Returns whether [`Self::cancel`] left its note.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.path.join(CANCELLED).exists()
    }

    /// Returns the bytes that all its files take on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        bytes_on_disk(&self.path)
    }
}

/// Returns the bytes that all files in a folder and below it take on the disk.
pub(crate) fn bytes_on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_on_disk(&entry.path()),
        // A partial file has its full length from the start, whether or not the disk has reserved it.
        Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_folders_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("mine");
        fs::create_dir_all(&outside).unwrap();
        let models_dir = ModelsDir::open(&folder.path().join("models")).unwrap();
        let ours = models_dir.hub_folder(&RepoId::parse("o/n").unwrap(), "Q4", "sub/a b.gguf");
        assert!(ours.ends_with("huggingface/o--n--Q4--a_b"));
        let below = models_dir.hub_folder(&RepoId::parse("o/n").unwrap(), "Q4", "x/y/model.safetensors");
        assert!(below.ends_with("huggingface/o--n--Q4--x_y"));
        fs::create_dir_all(&ours).unwrap();
        let sneaky = models_dir.root().join("huggingface/link");
        std::os::unix::fs::symlink(&outside, &sneaky).unwrap();
        let parent = models_dir.root().join("huggingface/..");
        for path in [outside.as_path(), &sneaky, &parent, models_dir.root(), &ours] {
            models_dir.remove_finished(path).unwrap();
        }
        assert!(outside.exists() && models_dir.root().join("huggingface").exists() && !ours.exists());
    }

    #[test]
    fn catalogs_that_share_a_folder_keep_apart() {
        let folder = tempfile::tempdir().unwrap();
        let models_dirs = ["", "ab12", "cd34"].map(|catalog_id| {
            let models_dir = ModelsDir::open(folder.path()).unwrap();
            models_dir.bind_catalog(catalog_id);
            models_dir.incoming(7).create().unwrap();
            models_dir
        });
        for models_dir in &models_dirs {
            let all = models_dir.all_incoming().unwrap();
            let ours: Vec<_> =
                all.iter().filter_map(|(id, incoming)| id.map(|id| (id, incoming.path()))).collect();
            assert_eq!((all.len(), ours), (3, vec![(7, models_dir.incoming(7).path())]));
        }
        let odd = ModelsDir::open(folder.path()).unwrap();
        odd.bind_catalog("../x");
        assert_eq!(odd.catalog_id(), "");
    }

    #[test]
    fn links_are_found_after_a_rename() {
        let folder = tempfile::tempdir().unwrap();
        let models_dir = ModelsDir::open(folder.path()).unwrap();
        models_dir.link_local("old", 7, folder.path()).unwrap();
        models_dir.link_local("new", 7, folder.path()).unwrap();
        models_dir.link_local("other", 17, folder.path()).unwrap();
        models_dir.unlink_local(7).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path().join("local")).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert!(folder.path().exists());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_reported_at_startup() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = ModelsDir::open(&file.join("models")).unwrap_err().to_string();
        assert!(error.contains("cannot be written"), "{error}");
    }
}
