//! The file under way: given to the disk while it grows, so that whoever syncs it at its end does not wait for all of it.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// What the page cache gathers before the disk is told to begin.
const PORTION: u64 = 16 << 20;

#[derive(Debug)]
pub struct Output {
    file: File,
    written: u64,
    /// Up to where the disk was told to write.
    begun: u64,
}

impl Output {
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, written: 0, begun: 0 })
    }

    /// Starts writing without waiting; that this worked only a sync can tell.
    #[cfg(target_os = "linux")]
    fn begin_writing(&self) {
        use std::os::fd::AsRawFd as _;
        let (from, bytes) = (self.begun as libc::off64_t, (self.written - self.begun) as libc::off64_t);
        // SAFETY: the descriptor is open as long as `file`; the call touches no memory of ours.
        unsafe { libc::sync_file_range(self.file.as_raw_fd(), from, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    }

    #[cfg(not(target_os = "linux"))]
    fn begin_writing(&self) {}
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.file.write(bytes)?;
        self.written += taken as u64;
        if self.written - self.begun >= PORTION {
            self.begin_writing();
            self.begun = self.written;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
