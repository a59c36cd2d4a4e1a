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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_disk_answers() {
        assert!(RealDisk.available(Path::new("/")).is_ok());
        assert!(RealDisk.available(Path::new("/no/such/folder")).is_err());
    }
}
