//! A GGUF file mapped into memory.

use std::path::Path;

use super::header::{GgufHeader, GgufTensor};
use crate::error::{Error, Result};
use crate::formats::mmap::{self, MappedFile};

/// A validated header and the bytes it describes.
#[derive(Debug)]
pub struct GgufFile {
    header: GgufHeader,
    map: MappedFile,
}

impl GgufFile {
    /// Maps a file and parses its header.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where the file is not valid GGUF, [`Error::Io`] where it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let name = mmap::file_name(path);
        let map = mmap::map(path)?;
        let header = GgufHeader::parse(&name, &map, map.len() as u64)?
            .complete()
            .ok_or_else(|| Error::invalid(name, "ends within the header"))?;
        Ok(Self { header, map })
    }

    /// Returns the validated header.
    pub fn header(&self) -> &GgufHeader {
        &self.header
    }

    /// Returns exactly the tensor's bytes. `tensor` is one of the header's.
    pub fn bytes(&self, tensor: &GgufTensor) -> &[u8] {
        &self.map[tensor.range.start as usize..tensor.range.end as usize]
    }

    pub(crate) fn into_parts(self) -> (GgufHeader, MappedFile) {
        (self.header, self.map)
    }
}
