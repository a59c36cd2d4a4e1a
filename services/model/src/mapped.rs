//! Opening files of a model: regular files only, so that a FIFO cannot hang us and a device cannot feed us.

use std::fs::File;
use std::io::Read;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};
#[cfg(unix)]
use crate::torn::Watch;

/// A file mapped for reading. One that is truncated meanwhile reads as zeros from there on ([`Mapped::is_whole`]).
#[derive(Debug)]
pub(crate) struct Mapped {
    /// Dropped first: the table must not name what is not mapped.
    #[cfg(unix)]
    watch: Watch,
    map: Mmap,
}

impl Mapped {
    /// Whether all that was read until now was the file's.
    pub(crate) fn is_whole(&self) -> bool {
        #[cfg(unix)]
        {
            !self.watch.is_torn()
        }
        #[cfg(not(unix))]
        true
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// The last part of a path, for messages.
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
pub(crate) fn map(path: &Path) -> Result<Mapped> {
    let (file, _) = open(path)?;
    // SAFETY: the mapping is read only. Other processes could still write to the file; model files are renamed
    // into place when complete and not written to again, and weights are read as plain bytes, for which any
    // value is valid. A file that becomes shorter is seen to by the watch.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| Error::io(path, error))?;
    Ok(Mapped {
        #[cfg(unix)]
        watch: Watch::over(&map).ok_or_else(|| Error::invalid(file_name(path), "too many files are open"))?,
        map,
    })
}

/// Gives the memory of a range back to the system; what is read of it again comes from the file again. A run over
/// a whole model would otherwise count all of it as its own.
pub(crate) fn release(mapped: &Mapped, range: Range<usize>) {
    #[cfg(unix)]
    {
        // SAFETY: the mapping is shared, read only and of a file, so its pages hold nothing that the file does not:
        // whoever still borrows them finds the same bytes. Where the file has become shorter, zeros stay zeros.
        let end = unsafe {
            mapped.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
        };
        if let Err(error) = end {
            tracing::debug!(%error, "pages are kept");
        }
    }
}

/// The text of a file of at most `most` bytes; `None` where there is no such file.
pub(crate) fn read_text(path: &Path, most: u64) -> Result<Option<String>> {
    if !path.try_exists().map_err(|error| Error::io(path, error))? {
        return Ok(None);
    }
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| Error::io(path, error))?;
    if bytes.len() as u64 > most {
        return Err(Error::invalid(file_name(path), format!("is over the limit of {most} bytes")));
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
    fn a_file_that_ends_under_its_readers_reads_as_zeros_and_is_known_to() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![7_u8; 1 << 20]).expect("writable");
        let (hurt, other) = (map(&path).expect("mapped"), map(&path).expect("mapped"));
        assert_eq!(hurt[1 << 19], 7);
        File::options().write(true).open(&path).expect("there").set_len(100_000).expect("truncated");
        let sum = |mapped: &Mapped| mapped.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        assert!(hurt.is_whole() && other.is_whole(), "nothing was read of what is gone");
        assert_eq!(sum(&hurt), 700_000);
        assert!(!hurt.is_whole() && other.is_whole());
        release(&hurt, 0..1 << 20);
        assert_eq!(sum(&hurt), 700_000);
        drop(hurt);
        // Its place in the table is free again, and clean.
        let again = map(&path).expect("mapped");
        assert_eq!((sum(&again), again.is_whole()), (700_000, true));
    }
}
