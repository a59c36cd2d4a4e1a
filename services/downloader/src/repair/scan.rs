//! The scan of the models folder: finished models, downloads that are not finished, and broken links.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::store::{
    manifest::Manifest,
    models_dir::{Incoming, ModelsDir},
};

/// The content of the models folder.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) folders: Vec<FinishedFolder>,
    pub(crate) incoming: Vec<IncomingFolder>,
    /// Links to people's own models whose target is gone.
    pub(crate) broken_links: Vec<PathBuf>,
}

/// A folder under a final name.
#[derive(Debug, Clone)]
pub(crate) struct FinishedFolder {
    pub(crate) path: PathBuf,
    /// `None` for a folder that this program did not make.
    pub(crate) manifest: Option<Manifest>,
    /// All files of the manifest are there.
    pub(crate) is_complete: bool,
    pub(crate) size: DiskUsage,
}

/// The folder of a download that runs or was interrupted.
#[derive(Debug, Clone)]
pub(crate) struct IncomingFolder {
    /// `None` for another catalog's download.
    pub(crate) id: Option<i64>,
    pub(crate) incoming: Incoming,
    pub(crate) size: DiskUsage,
}

/// The room that a folder takes, and its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    pub(crate) bytes: u64,
    /// The bytes that its removal frees: those that no other file name shares.
    pub(crate) own_bytes: u64,
    pub(crate) changed: SystemTime,
}

impl Scan {
    /// Scans the folder. Blocks.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn read(models_dir: &ModelsDir) -> io::Result<Self> {
        let mut scan = Self::default();
        for path in models_dir.finished()? {
            let manifest = Manifest::read(&path);
            let is_complete = manifest.as_ref().is_some_and(|manifest| manifest.is_complete(&path));
            let size = DiskUsage::of(&path);
            scan.folders.push(FinishedFolder { path, manifest, is_complete, size });
        }
        for (id, incoming) in models_dir.all_incoming()? {
            scan.incoming.push(IncomingFolder { id, size: DiskUsage::of(incoming.path()), incoming });
        }
        for link in models_dir.links()? {
            if fs::metadata(&link).is_err() {
                scan.broken_links.push(link);
            }
        }
        Ok(scan)
    }
}

impl DiskUsage {
    /// Returns the usage of a folder and all below it. Files that vanish meanwhile count as nothing.
    pub(crate) fn of(folder: &Path) -> Self {
        let changed = |metadata: &fs::Metadata| metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let own = fs::symlink_metadata(folder);
        let mut size =
            Self { bytes: 0, own_bytes: 0, changed: own.map_or(SystemTime::UNIX_EPOCH, |m| changed(&m)) };
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                let below = Self::of(&entry.path());
                size.bytes += below.bytes;
                size.own_bytes += below.own_bytes;
                size.changed = size.changed.max(below.changed);
            } else {
                // A partial file has its full length from the start; only the blocks that came take room.
                let bytes = metadata.len().min(metadata.blocks() * 512);
                size.bytes += bytes;
                size.own_bytes += if metadata.nlink() > 1 { 0 } else { bytes };
                size.changed = size.changed.max(changed(&metadata));
            }
        }
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_bytes_are_not_freed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/x"), b"12345").unwrap();
        fs::write(folder.path().join("a/y"), b"123").unwrap();
        fs::hard_link(folder.path().join("a/x"), folder.path().join("x")).unwrap();
        let size = DiskUsage::of(&folder.path().join("a"));
        assert_eq!((size.bytes, size.own_bytes), (8, 3));
        assert!(size.changed.elapsed().unwrap().as_secs() < 60);
        assert_eq!(DiskUsage::of(Path::new("/no/such/place")).bytes, 0);
    }
}
