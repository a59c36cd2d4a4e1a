//! The header of one safetensors file: eight bytes of length, JSON, then the data that it describes without
//! holes or overlap.

use std::cmp::Ordering;
use std::ops::Range;

use serde_json::error::Category;

use super::entries::{self, Entries};
use crate::error::{Error, Result, shown};
use crate::headers::Prefix;
use crate::tensor::{TensorType, elements};

/// The format's own limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

const LENGTH_BYTES: u64 = 8;

/// Element type as the header says it; only some can be weights (`tensor_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dtype {
    name: &'static str,
    bits: u64,
}

const DTYPES: &[Dtype] = &[
    Dtype { name: "BOOL", bits: 8 },
    Dtype { name: "F4", bits: 4 },
    Dtype { name: "F6_E2M3", bits: 6 },
    Dtype { name: "F6_E3M2", bits: 6 },
    Dtype { name: "U8", bits: 8 },
    Dtype { name: "I8", bits: 8 },
    Dtype { name: "F8_E5M2", bits: 8 },
    Dtype { name: "F8_E4M3", bits: 8 },
    Dtype { name: "F8_E8M0", bits: 8 },
    Dtype { name: "I16", bits: 16 },
    Dtype { name: "U16", bits: 16 },
    Dtype { name: "F16", bits: 16 },
    Dtype { name: "BF16", bits: 16 },
    Dtype { name: "I32", bits: 32 },
    Dtype { name: "U32", bits: 32 },
    Dtype { name: "F32", bits: 32 },
    Dtype { name: "F64", bits: 64 },
    Dtype { name: "I64", bits: 64 },
    Dtype { name: "U64", bits: 64 },
    Dtype { name: "C64", bits: 64 },
];

impl Dtype {
    pub fn name(self) -> &'static str {
        self.name
    }

    pub(super) fn by_name(name: &str) -> Option<Self> {
        DTYPES.iter().find(|known| known.name == name).copied()
    }

    /// The type as weights are read, or `None` for those that the engine does not compute with.
    pub fn tensor_type(self) -> Option<TensorType> {
        match self.name {
            "F32" => Some(TensorType::F32),
            "F16" => Some(TensorType::F16),
            "BF16" => Some(TensorType::BF16),
            _ => None,
        }
    }
}

/// One tensor as the file has it, under the file's name for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub range: Range<u64>,
}

impl StoredTensor {
    /// `offsets` count from `data_start`, where the file's data begins.
    pub(super) fn new(
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        [start, end]: [usize; 2],
        data_start: u64,
    ) -> Result<Self, String> {
        let bits = elements(&shape)
            .and_then(|count| count.checked_mul(dtype.bits))
            .ok_or("size of the shape overflows")?;
        if !bits.is_multiple_of(8) {
            return Err(format!("{bits} bits are not whole bytes"));
        }
        let held = end.checked_sub(start).ok_or("data_offsets end before they start")? as u64;
        if held != bits / 8 {
            return Err(format!("data_offsets hold {held} bytes, the shape {shape:?} needs {}", bits / 8));
        }
        let place = |offset: usize| data_start.checked_add(offset as u64).ok_or("data_offsets overflow");
        Ok(Self { name, dtype, shape, range: place(start)?..place(end)? })
    }
}

/// A header in which everything fits: names are unique, sizes are those of the shapes, and the ranges tile the
/// file to its last byte. `__metadata__` is checked and not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetensorsHeader {
    /// In the order of their bytes.
    pub tensors: Vec<StoredTensor>,
}

impl SafetensorsHeader {
    /// Parses the header of a file of `file_len` bytes from its first bytes. `file` is for messages.
    pub fn parse(file: &str, prefix: &[u8], file_len: u64) -> Result<Prefix<Self>> {
        let invalid = |why: String| Error::invalid(file, why);
        if file_len < LENGTH_BYTES {
            return Err(invalid(format!("is {file_len} bytes long, a header has at least {LENGTH_BYTES}")));
        }
        let Some((length, rest)) = prefix.split_first_chunk::<8>() else {
            return Ok(Prefix::NeedMore(LENGTH_BYTES));
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
            return Ok(Prefix::NeedMore(data_start));
        };
        let json = std::str::from_utf8(json)
            .map_err(|error| invalid(format!("header is not UTF-8 at byte {}", 8 + error.valid_up_to())))?;
        if !json.starts_with('{') {
            return Err(invalid("header does not begin with '{'".to_owned()));
        }
        let header = Self::from_json(json, data_start).map_err(invalid)?;
        header.check_tiling(data_start, file_len).map_err(invalid)?;
        Ok(Prefix::Complete(header))
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
                    let name = shown(&tensor.name);
                    return Err(format!("tensor '{name}' overlaps the one before it at byte {start}"));
                }
                Ordering::Greater => {
                    let name = shown(&tensor.name);
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
