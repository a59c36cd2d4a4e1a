//! How much room there is.

use std::{fmt, io, path::Path};

/// Where the free bytes are asked for; tests put their own disk here.
pub trait DiskSpace: fmt::Debug + Send + Sync {
    /// Bytes that may be written to the file system of `path`, by whoever we are.
    fn available(&self, path: &Path) -> io::Result<u64>;
}

/// The real disk, by statvfs(3).
#[derive(Debug, Clone, Copy)]
pub struct RealDisk;

impl DiskSpace for RealDisk {
    fn available(&self, path: &Path) -> io::Result<u64> {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `path` is a NUL-terminated string and `stat` a place for one struct, both alive during the call.
        let code = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
        if code != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: statvfs filled it, as its return value of 0 says.
        let stat = unsafe { stat.assume_init() };
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// What kind of file system `path` is on, where the system lists them: "ext4".
pub fn file_system(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        // Blanks are written as octal escapes.
        let place = words.next()?.replace("\\040", " ");
        path.starts_with(&place).then(|| (place.len(), words.next()))
    });
    // The last of several at one place hides the others.
    mounts.max_by_key(|(length, _)| *length)?.1.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_disk_answers() {
        assert!(RealDisk.available(Path::new("/")).is_ok());
        assert!(RealDisk.available(Path::new("/no/such/folder")).is_err());
        if cfg!(target_os = "linux") {
            assert_eq!(file_system(Path::new("/proc/self")).as_deref(), Some("proc"));
        }
    }
}
