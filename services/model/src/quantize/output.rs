//! The output file, whose data is sent to the disk while it grows, so that the final sync does not wait for all of it.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// The bytes that the page cache collects before writeback starts.
const WRITEBACK_BYTES: u64 = 16 << 20;

/// A file that starts writeback as it grows.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    written: u64,
    /// The bytes for which writeback has started.
    started: u64,
}

impl Output {
    /// Creates the file, or truncates it.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, written: 0, started: 0 })
    }

    /// Starts writeback without waiting. Only a later sync tells whether it succeeded.
    #[cfg(target_os = "linux")]
    fn start_writeback(&self) {
        use std::os::fd::AsRawFd as _;
        let (from, bytes) = (self.started as libc::off64_t, (self.written - self.started) as libc::off64_t);
        // SAFETY: the descriptor is open as long as `file` is, and the call accesses no memory of the process.
        unsafe { libc::sync_file_range(self.file.as_raw_fd(), from, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    }

    #[cfg(not(target_os = "linux"))]
    fn start_writeback(&self) {}
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.file.write(bytes)?;
        self.written += taken as u64;
        if self.written - self.started >= WRITEBACK_BYTES {
            self.start_writeback();
            self.started = self.written;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
