//! Opening files of a model: regular files only, so that a FIFO cannot hang us and a device cannot feed us.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

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
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let (file, _) = open(path)?;
    // SAFETY: the mapping is read only. Other processes could still write to the file; model files are renamed
    // into place when complete and not written to again, and weights are read as plain bytes, for which any
    // value is valid.
    unsafe { Mmap::map(&file) }.map_err(|error| Error::io(path, error))
}

/// Gives the memory of a range back to the system; what is read of it again comes from the file again. A run over
/// a whole model would otherwise count all of it as its own.
pub(crate) fn release(map: &Mmap, range: Range<usize>) {
    #[cfg(unix)]
    {
        // SAFETY: the mapping is shared, read only and of a file, so its pages hold nothing that the file does not:
        // whoever still borrows them finds the same bytes.
        let end = unsafe {
            map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
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
