//! The folder of datasets from the hub, in the models folder:
//!
//! ```text
//! datasets/7-5e1f…/data/train.parquet   a file of dataset 7 of catalogue 5e1f…, as in its repository
//! datasets/7-5e1f…/.partial/            incomplete files
//! ```
//!
//! Several catalogues may share the folder, and other catalogues' datasets are left alone. Nothing outside of the folder
//! is ever removed.

use std::{fs, io, path::PathBuf};

use sha2::{Digest as _, Sha256};

use super::{
    atomic_file::ignore_not_found,
    models_dir::{ModelsDir, bytes_on_disk},
};
use crate::hub::path::RepoPath;

/// The folder of all datasets.
#[derive(Debug, Clone)]
pub(crate) struct DatasetsDir<'a> {
    models_dir: &'a ModelsDir,
}

/// The folder of one dataset.
#[derive(Debug, Clone)]
pub(crate) struct DatasetFolder(PathBuf);

impl<'a> DatasetsDir<'a> {
    /// Returns the folder of datasets in a models folder.
    pub(crate) fn new(models_dir: &'a ModelsDir) -> Self {
        Self { models_dir }
    }

    /// Returns where all datasets lie.
    pub(crate) fn root(&self) -> PathBuf {
        self.models_dir.root().join("datasets")
    }

    /// Returns the folder of a dataset.
    pub(crate) fn folder(&self, id: i64) -> DatasetFolder {
        let name = match self.models_dir.catalog_id() {
            "" => id.to_string(),
            catalog_id => format!("{id}-{catalog_id}"),
        };
        DatasetFolder(self.root().join(name))
    }

    /// Returns the ids of this catalogue's datasets that have a folder.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn ids(&self) -> io::Result<Vec<i64>> {
        let entries = match fs::read_dir(self.root()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let id = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let (id, catalog_id) = name.split_once('-').unwrap_or((&name, ""));
            id.parse().ok().filter(|_| catalog_id == self.models_dir.catalog_id())
        };
        Ok(entries.filter_map(id).collect())
    }
}

impl DatasetFolder {
    /// Makes the folders for a file, and returns its final path and that of its partial.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn prepare(&self, file: &RepoPath) -> io::Result<(PathBuf, PathBuf)> {
        let (path, partials) = (self.0.join(file.as_str()), self.0.join(".partial"));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::create_dir_all(&partials)?;
        // A file's path may be longer than a name may be.
        let partial = partials.join(hex::encode(Sha256::digest(file.as_str())));
        Ok((path, partial))
    }

    /// Returns the bytes of the files that are there, complete or not.
    pub(crate) fn bytes(&self) -> u64 {
        bytes_on_disk(&self.0)
    }

    /// Removes what incomplete files left. The dataset is complete.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn remove_partials(&self) -> io::Result<()> {
        ignore_not_found(fs::remove_dir_all(self.0.join(".partial")))
    }

    /// Removes the folder. A missing folder counts as success.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn remove(&self) -> io::Result<()> {
        ignore_not_found(fs::remove_dir_all(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogues_that_share_a_folder_keep_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = RepoPath::parse("data/train.parquet").unwrap();
        for catalog_id in ["", "ab12", "cd34"] {
            let models_dir = ModelsDir::open(folder.path()).unwrap();
            models_dir.bind_catalog(catalog_id);
            let datasets = DatasetsDir::new(&models_dir);
            assert!(datasets.ids().unwrap().is_empty());
            let (path, partial) = datasets.folder(7).prepare(&file).unwrap();
            fs::write(&path, "x").unwrap();
            fs::write(partial, "x").unwrap();
            assert_eq!(datasets.ids().unwrap(), [7]);
            datasets.folder(7).remove_partials().unwrap();
            assert!(path.exists() && !datasets.folder(7).0.join(".partial").exists());
        }
        assert_eq!(fs::read_dir(folder.path().join("datasets")).unwrap().count(), 3);
        let models_dir = ModelsDir::open(folder.path()).unwrap();
        models_dir.bind_catalog("ab12");
        DatasetsDir::new(&models_dir).folder(7).remove().unwrap();
        assert_eq!(fs::read_dir(folder.path().join("datasets")).unwrap().count(), 2);
    }
}
