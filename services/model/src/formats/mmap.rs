//! Opens and maps a model's files. Only regular files are opened: a FIFO could block, and a device could deliver data
//! without end.

use std::fs::File;
use std::io::Read;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};
#[cfg(unix)]
use crate::formats::sigbus_guard::SigbusGuard;

/// A file mapped for reading. If the file is truncated meanwhile, it reads as zeros from there on
/// ([`MappedFile::is_intact`]).
#[derive(Debug)]
pub(crate) struct MappedFile {
    /// Dropped before the mapping, so that the guard's table never names memory that is not mapped.
    #[cfg(unix)]
    guard: SigbusGuard,
    map: Mmap,
}

impl MappedFile {
    /// Returns whether everything read so far was the file's content.
    pub(crate) fn is_intact(&self) -> bool {
        #[cfg(unix)]
        {
            !self.guard.is_truncated()
        }
        #[cfg(not(unix))]
        true
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Returns the last part of a path, for messages.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn open(path: &Path) -> Result<(File, u64)> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
    if !metadata.is_file() {
        return Err(Error::invalid(file_name(path), "is not a regular file"));
    }
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    Ok((file, metadata.len()))
}

/// Maps a file for reading. An empty file maps to no bytes.
pub(crate) fn map(path: &Path) -> Result<MappedFile> {
    let (file, _) = open(path)?;
    // SAFETY: the mapping is read only. Other processes could still write to the file; model files are renamed
    // into place when complete and not written to again, and weights are read as plain bytes, for which any
    // value is valid. The guard handles files that become shorter.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| Error::io(path, error))?;
    Ok(MappedFile {
        #[cfg(unix)]
        guard: SigbusGuard::new(&map)
            .ok_or_else(|| Error::invalid(file_name(path), "too many files are open"))?,
        map,
    })
}

/// Returns the memory of a range to the system; a later read loads it from the file again. Without this, a pass over a
/// whole model would keep all of it in the process's resident memory.
pub(crate) fn release(mapped: &MappedFile, range: Range<usize>) {
    #[cfg(unix)]
    {
        // SAFETY: the mapping is shared, read only and of a file, so its pages hold only the file's bytes, and borrowers
        // find the same bytes again. Where the file has become shorter, zeros stay zeros.
        let end = unsafe {
            mapped.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
        };
        if let Err(error) = end {
            tracing::debug!(%error, "the system keeps the pages of a mapped file");
        }
    }
}

/// Reads a UTF-8 file of at most `max` bytes. Returns `None` where there is no such file.
pub(crate) fn read_text(path: &Path, max: u64) -> Result<Option<String>> {
    if !path.try_exists().map_err(|error| Error::io(path, error))? {
        return Ok(None);
    }
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| Error::io(path, error))?;
    if bytes.len() as u64 > max {
        return Err(Error::invalid(file_name(path), format!("is over the limit of {max} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::invalid(file_name(path), format!("is not UTF-8 at byte {at}"))
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_file_reads_as_zeros_and_is_not_intact() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![7_u8; 1 << 20]).expect("writable");
        let (truncated, other) = (map(&path).expect("mapped"), map(&path).expect("mapped"));
        assert_eq!(truncated[1 << 19], 7);
        File::options().write(true).open(&path).expect("there").set_len(100_000).expect("truncated");
        let sum = |mapped: &MappedFile| mapped.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        assert!(truncated.is_intact() && other.is_intact(), "nothing was read behind the new end");
        assert_eq!(sum(&truncated), 700_000);
        assert!(!truncated.is_intact() && other.is_intact());
        release(&truncated, 0..1 << 20);
        assert_eq!(sum(&truncated), 700_000);
        drop(truncated);
        // Its place in the table is free again, and clean.
        let again = map(&path).expect("mapped");
        assert_eq!((sum(&again), again.is_intact()), (700_000, true));
    }
}
