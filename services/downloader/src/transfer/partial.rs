//! A partial file: preallocated, written block by block in any order, with its ledger beside it.
//!
//! A block is noted after its write has returned. The note then holds however the process ends, `kill -9` included:
//! the kernel has the bytes. A power cut may lose noted writes. So every noted block is read and compared with its
//! checksum before it counts, and fetched again where it differs.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    buffer_pool::{ALIGNMENT, Buffer},
    ledger::{BlockChecksums, ExpectedFile, Ledger},
};
use crate::limits::{BLOCK_BYTES, DIRECT_FROM_BYTES, UNSYNCED_BYTES};

/// A partial file. Its methods block, so they run on threads of their own.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    pub(crate) expected: ExpectedFile,
    file: File,
    /// Writes past the page cache, where the file system can; syncing is cheap then.
    direct: Option<File>,
    unsynced: AtomicU64,
    ledger: Mutex<Ledger>,
}

impl Partial {
    /// Opens the file that an earlier run left, or a new one, and returns the checksums of the noted blocks. `fresh`
    /// discards what is there.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn open(
        path: &Path,
        expected: ExpectedFile,
        fresh: bool,
    ) -> io::Result<(Self, BlockChecksums)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let (mut ledger, mut checksums) = Ledger::open(path, &expected)?;
        // A file of another length was not left by this code.
        if fresh || file.metadata()?.len() != expected.size || checksums.iter().all(Option::is_none) {
            ledger.clear()?;
            checksums.fill(None);
            file.set_len(0)?;
            reserve(&file, expected.size)?;
        }
        let direct = if expected.size >= DIRECT_FROM_BYTES { open_direct(path) } else { None };
        let unsynced = AtomicU64::default();
        Ok((
            Self { path: path.to_owned(), expected, file, direct, unsynced, ledger: Mutex::new(ledger) },
            checksums,
        ))
    }

    /// Returns the length of a block in bytes. Only the last one is shorter.
    pub(crate) fn length_of(&self, block: u64) -> usize {
        BLOCK_BYTES.min(self.expected.size.saturating_sub(block * BLOCK_BYTES)) as usize
    }

    /// Writes a block, notes it, and returns its checksum.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn write(&self, block: u64, content: &Buffer) -> io::Result<u32> {
        let (bytes, offset) = (content.bytes(), block * BLOCK_BYTES);
        let crc = crc32fast::hash(bytes);
        if !self.write_direct(bytes, offset)? {
            self.file.write_all_at(bytes, offset)?;
            self.sync_when_due(bytes.len() as u64)?;
        }
        // A file of one block needs no ledger.
        if self.expected.blocks() > 1 {
            self.ledger.lock().unwrap_or_else(PoisonError::into_inner).note(block, crc)?;
        }
        Ok(crc)
    }

    /// Writes past the page cache. Returns false where that is not possible: at the end of a file, or on some file
    /// systems.
    fn write_direct(&self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        let Some(file) = &self.direct else { return Ok(false) };
        if !bytes.len().is_multiple_of(ALIGNMENT) {
            return Ok(false);
        }
        match file.write_all_at(bytes, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Syncs every [`UNSYNCED_BYTES`]. One sync of gigabytes at the end would delay a cancel.
    fn sync_when_due(&self, bytes: u64) -> io::Result<()> {
        if self.unsynced.fetch_add(bytes, Relaxed) + bytes < UNSYNCED_BYTES {
            return Ok(());
        }
        self.unsynced.store(0, Relaxed);
        self.file.sync_data()
    }

    /// Reads a block back; `None` when its checksum differs.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn read<'b>(
        &self,
        block: u64,
        crc: u32,
        buffer: &'b mut [u8],
    ) -> io::Result<Option<&'b [u8]>> {
        let bytes = &mut buffer[..self.length_of(block)];
        match self.file.read_exact_at(bytes, block * BLOCK_BYTES) {
            Ok(()) => Ok((crc32fast::hash(bytes) == crc).then_some(&*bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Syncs the verified file, renames it to `name` and removes the ledger.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub(crate) fn finish(&self, name: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, name)?;
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clear()
    }
}

/// Reserves room for the whole file, so that a full disk is found before the first byte. Where the file system cannot
/// reserve room, only the length is set.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if size > 0 {
        use std::os::fd::AsRawFd as _;
        // SAFETY: the descriptor is open as long as `file` lives, and the call touches no memory of this process.
        let code = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, size as libc::off_t) };
        if code == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if crate::error::is_disk_full(&error) {
            return Err(error);
        }
    }
    file.set_len(size)
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> Option<File> {
    None
}
