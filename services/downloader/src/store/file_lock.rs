//! One process makes a model at a time, of all that share a models folder. The operating system's file locks see to
//! that. A lock ends with its process, so it is never stale; a lock file that a crash left means nothing.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// An exclusive lock, held until it is dropped.
#[derive(Debug)]
pub(crate) struct FileLock {
    /// `None` where the file system has no locks: then only one process may use the folder.
    file: Option<File>,
    path: PathBuf,
}

impl FileLock {
    /// Takes the lock, or returns `None` while another holder has it.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
        loop {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let file = File::options().create(true).truncate(false).write(true).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    tracing::warn!(path = %path.display(), "the file system has no locks");
                    return Ok(Some(Self { file: None, path: path.to_owned() }));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The last holder removes the file before it unlocks: ours may have lost its name.
            if is_named(&file, path) {
                return Ok(Some(Self { file: Some(file), path: path.to_owned() }));
            }
        }
    }
}

fn is_named(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (named.dev(), named.ino())
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // The lock is still held, so nobody else can have taken the name.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a lock file was not removed");
        }
        drop(self.file.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".locks/o--n--Q4.lock");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"what a crash left").unwrap();
        let first = FileLock::try_acquire(&path).unwrap().expect("nobody holds it");
        assert!(FileLock::try_acquire(&path).unwrap().is_none());
        drop(first);
        assert!(!path.exists());
        assert!(FileLock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn many_threads_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let holders = std::sync::atomic::AtomicU32::new(0);
        let work = || {
            let mut turns = 0;
            while turns < 50 {
                let Some(lock) = FileLock::try_acquire(&path).unwrap() else { continue };
                assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                drop(lock);
                turns += 1;
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(work);
            }
        });
    }
}
