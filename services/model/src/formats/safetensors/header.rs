//! The header of one safetensors file: eight bytes of length, then JSON. The data that it describes follows, without
//! holes or overlap.

use std::cmp::Ordering;

use serde_json::error::Category;

use super::entries::{self, Entries};
use super::tensor::SafetensorsTensor;
use crate::error::{Error, Result, excerpt};
use crate::formats::header_prefix::HeaderPrefix;

/// The longest header that the format allows, in bytes.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

const LENGTH_BYTES: u64 = 8;

/// A validated header: names are unique, sizes follow from type and shape, and the ranges tile the file to its last
/// byte. `__metadata__` is checked and not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetensorsHeader {
    /// All tensors, in the order of their bytes.
    pub tensors: Vec<SafetensorsTensor>,
}

impl SafetensorsHeader {
    /// Parses the header of a file of `file_len` bytes from its first bytes. `file` names it in messages.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where the bytes are not a valid header.
    pub fn parse(file: &str, prefix: &[u8], file_len: u64) -> Result<HeaderPrefix<Self>> {
        let invalid = |why: String| Error::invalid(file, why);
        if file_len < LENGTH_BYTES {
            return Err(invalid(format!("is {file_len} bytes long, a header has at least {LENGTH_BYTES}")));
        }
        let Some((length, rest)) = prefix.split_first_chunk::<8>() else {
            return Ok(HeaderPrefix::NeedMore(LENGTH_BYTES));
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER_BYTES {
            return Err(invalid(format!("header of {length} bytes is over the limit of {MAX_HEADER_BYTES}")));
        }
        let data_start = LENGTH_BYTES + length;
        if data_start > file_len {
            return Err(invalid(format!("header of {length} bytes ends after the file of {file_len}")));
        }
        let Some(json) = rest.get(..length as usize) else {
            return Ok(HeaderPrefix::NeedMore(data_start));
        };
        let json = std::str::from_utf8(json)
            .map_err(|error| invalid(format!("header is not UTF-8 at byte {}", 8 + error.valid_up_to())))?;
        if !json.starts_with('{') {
            return Err(invalid("header does not begin with '{'".to_owned()));
        }
        let header = Self::from_json(json, data_start).map_err(invalid)?;
        header.check_tiling(data_start, file_len).map_err(invalid)?;
        Ok(HeaderPrefix::Complete(header))
    }

    fn from_json(json: &str, data_start: u64) -> Result<Self, String> {
        let mut entries = Entries::new(data_start);
        entries::read(json, &mut entries).map_err(|error| match error.classify() {
            Category::Data => format!("{}{error}", entries.place()),
            _ => format!("header is not JSON: {error}"),
        })?;
        let mut tensors = entries.tensors;
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        Ok(Self { tensors })
    }

    fn check_tiling(&self, data_start: u64, file_len: u64) -> Result<(), String> {
        let mut end = data_start;
        for tensor in &self.tensors {
            let start = tensor.range.start;
            match start.cmp(&end) {
                Ordering::Less => {
                    let name = excerpt(&tensor.name);
                    return Err(format!("tensor '{name}' overlaps the one before it at byte {start}"));
                }
                Ordering::Greater => {
                    let name = excerpt(&tensor.name);
                    return Err(format!("hole of {} bytes before tensor '{name}'", start - end));
                }
                Ordering::Equal => end = tensor.range.end,
            }
        }
        match end.cmp(&file_len) {
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(format!("data ends at byte {end}, after the file of {file_len}")),
            Ordering::Less => Err(format!("{} bytes follow the last tensor", file_len - end)),
        }
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
