//! A file on its way: preallocated, written block by block in any order, with its ledger beside it.
//!
//! A block is noted after its write has returned. That outlives the process however it ends: what was written is
//! the kernel's then. It does not outlive a power cut, which may lose writes that are noted; so every noted block is
//! read and compared with its checksum before it counts, and fetched again where it differs.

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
    blocks::{ALIGNMENT, Block},
    ledger::{Ledger, Marks, Wanted},
};
use crate::policy::{BLOCK_BYTES, DIRECT_FROM_BYTES, UNSYNCED_BYTES};

/// Blocks: it lives on threads that may.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    pub wanted: Wanted,
    file: File,
    /// Past the page cache, where the file system has that: it is what makes syncing cheap.
    direct: Option<File>,
    unsynced: AtomicU64,
    ledger: Mutex<Ledger>,
}

impl Partial {
    /// Opens what an earlier run left, or makes it anew; and what is noted to be there.
    pub fn open(path: &Path, wanted: Wanted, fresh: bool) -> io::Result<(Self, Marks)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let (mut ledger, mut marks) = Ledger::open(path, &wanted)?;
        // Any other length is not as we left it.
        if fresh || file.metadata()?.len() != wanted.size || marks.iter().all(Option::is_none) {
            ledger.clear()?;
            marks.fill(None);
            file.set_len(0)?;
            reserve(&file, wanted.size)?;
        }
        let direct = if wanted.size >= DIRECT_FROM_BYTES { open_direct(path) } else { None };
        let unsynced = AtomicU64::default();
        Ok((
            Self { path: path.to_owned(), wanted, file, direct, unsynced, ledger: Mutex::new(ledger) },
            marks,
        ))
    }

    /// Bytes of a block: all the same but the last.
    pub fn length_of(&self, block: u64) -> usize {
        BLOCK_BYTES.min(self.wanted.size.saturating_sub(block * BLOCK_BYTES)) as usize
    }

    /// Writes a block and notes it; its checksum.
    pub fn write(&self, block: u64, content: &Block) -> io::Result<u32> {
        let (bytes, offset) = (content.bytes(), block * BLOCK_BYTES);
        let crc = crc32fast::hash(bytes);
        if !self.write_direct(bytes, offset)? {
            self.file.write_all_at(bytes, offset)?;
            self.sync_now_and_then(bytes.len() as u64)?;
        }
        // A file of one block is there or not: nothing to note.
        if self.wanted.blocks() > 1 {
            self.ledger.lock().unwrap_or_else(PoisonError::into_inner).note(block, crc)?;
        }
        Ok(crc)
    }

    /// False where it has to be written the plain way: the end of a file, a file system that will not.
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

    /// Gigabytes that are synced at the end would hold up whoever cancels then.
    fn sync_now_and_then(&self, bytes: u64) -> io::Result<()> {
        if self.unsynced.fetch_add(bytes, Relaxed) + bytes < UNSYNCED_BYTES {
            return Ok(());
        }
        self.unsynced.store(0, Relaxed);
        self.file.sync_data()
    }

    /// Reads a block that was written; `None` when it is not what was.
    pub fn read<'b>(&self, block: u64, crc: u32, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        let bytes = &mut buffer[..self.length_of(block)];
        match self.file.read_exact_at(bytes, block * BLOCK_BYTES) {
            Ok(()) => Ok((crc32fast::hash(bytes) == crc).then_some(&*bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the verified file its name, for good.
    pub fn publish(&self, name: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, name)?;
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clear()
    }
}

/// Room for the whole file now, so that a full disk is found before the first byte; where that cannot be had the
/// length alone.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if size > 0 {
        use std::os::fd::AsRawFd as _;
        // SAFETY: the descriptor is open as long as `file`; the call touches no memory of ours.
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
