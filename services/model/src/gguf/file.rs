//! A GGUF file, mapped.

use std::path::Path;

use super::header::{GgufHeader, StoredTensor};
use crate::error::{Error, Result};
use crate::mapped::{self, Mapped};

/// A validated header and the bytes it describes.
#[derive(Debug)]
pub struct GgufFile {
    header: GgufHeader,
    map: Mapped,
}

impl GgufFile {
    pub fn open(path: &Path) -> Result<Self> {
        let name = mapped::file_name(path);
        let map = mapped::map(path)?;
        let header = GgufHeader::parse(&name, &map, map.len() as u64)?
            .complete()
            .ok_or_else(|| Error::invalid(name, "ends within the header"))?;
        Ok(Self { header, map })
    }

    pub fn header(&self) -> &GgufHeader {
        &self.header
    }

    /// Exactly the tensor's bytes.
    pub fn bytes(&self, tensor: &StoredTensor) -> &[u8] {
        &self.map[tensor.range.start as usize..tensor.range.end as usize]
    }

    pub(crate) fn into_parts(self) -> (GgufHeader, Mapped) {
        (self.header, self.map)
    }
}
