//! The free space of a disk, and the kind of its file system.

use std::{fmt, io, path::Path};

/// A probe of free disk space. Tests replace it.
pub trait DiskSpace: fmt::Debug + Send + Sync {
    /// Returns the bytes that this process may still write to the file system of `path`.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    fn available(&self, path: &Path) -> io::Result<u64>;
}

/// The real disk, by `statvfs(3)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StatvfsDisk;

impl DiskSpace for StatvfsDisk {
    fn available(&self, path: &Path) -> io::Result<u64> {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `path` is a NUL-terminated string and `stat` has room for one struct; both outlive the call.
        let code = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
        if code != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: statvfs returned 0, so it has filled `stat`.
        let stat = unsafe { stat.assume_init() };
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Returns the kind of file system that `path` is on, such as "ext4", where the system lists its mounts.
pub(crate) fn file_system(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        // The file writes spaces as octal escapes.
        let place = words.next()?.replace("\\040", " ");
        path.starts_with(&place).then(|| (place.len(), words.next()))
    });
    // The last of several mounts at one place hides the others.
    mounts.max_by_key(|(length, _)| *length)?.1.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_disk_answers() {
        assert!(StatvfsDisk.available(Path::new("/")).is_ok());
        assert!(StatvfsDisk.available(Path::new("/no/such/folder")).is_err());
        if cfg!(target_os = "linux") {
            assert_eq!(file_system(Path::new("/proc/self")).as_deref(), Some("proc"));
        }
    }
}
