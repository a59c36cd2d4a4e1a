//! What lies in the models folder, as one look finds it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    cache::{Cache, Incoming},
    meta::Meta,
};

/// Read before the rows are: whatever lies there without a row then has lost it.
#[derive(Debug, Default)]
pub struct Disk {
    pub folders: Vec<Folder>,
    pub incoming: Vec<Arriving>,
    /// Links to people's own models that lead nowhere.
    pub broken_links: Vec<PathBuf>,
}

/// Under a final name.
#[derive(Debug, Clone)]
pub struct Folder {
    pub path: PathBuf,
    /// `None`: we did not make it.
    pub meta: Option<Meta>,
    /// All that the meta file names is there.
    pub whole: bool,
    pub size: Size,
}

/// On its way, or left on it.
#[derive(Debug, Clone)]
pub struct Arriving {
    /// `None`: another catalogue's.
    pub id: Option<i64>,
    pub incoming: Incoming,
    pub size: Size,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub bytes: u64,
    /// What removing it would give back: bytes that no other name shares.
    pub own_bytes: u64,
    pub changed: SystemTime,
}

impl Disk {
    /// Blocks.
    pub fn read(cache: &Cache) -> io::Result<Self> {
        let mut disk = Self::default();
        for path in cache.finished()? {
            let meta = Meta::read(&path);
            let whole = meta.as_ref().is_some_and(|meta| meta.is_whole(&path));
            disk.folders.push(Folder { whole, meta, size: Size::of(&path), path });
        }
        for (id, incoming) in cache.all_incoming()? {
            disk.incoming.push(Arriving { id, size: Size::of(incoming.path()), incoming });
        }
        for link in cache.links()? {
            if fs::metadata(&link).is_err() {
                disk.broken_links.push(link);
            }
        }
        Ok(disk)
    }
}

impl Size {
    /// Of a folder and all below; what vanishes meanwhile counts as nothing.
    pub fn of(folder: &Path) -> Self {
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
                // A partial file is as long as its whole from the start; the disk has set aside what has come.
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
    fn shared_bytes_are_not_given_back() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/x"), b"12345").unwrap();
        fs::write(folder.path().join("a/y"), b"123").unwrap();
        fs::hard_link(folder.path().join("a/x"), folder.path().join("x")).unwrap();
        let size = Size::of(&folder.path().join("a"));
        assert_eq!((size.bytes, size.own_bytes), (8, 3));
        assert!(size.changed.elapsed().unwrap().as_secs() < 60);
        assert_eq!(Size::of(Path::new("/no/such/place")).bytes, 0);
    }
}
