//! The header of a GGUF file: version, metadata, and the place of each tensor.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::metadata::{Metadata, Value};
use super::scan::{Scanner, Stop};
use crate::error::{Error, Result, excerpt};
use crate::formats::header_prefix::HeaderPrefix;
use crate::tensor::TensorType;

const MAX_TENSORS: u64 = 1 << 17;
const MAX_PAIRS: u64 = 1 << 16;
const MAX_KEY_BYTES: u64 = 65_535;
const MAX_NAME_BYTES: u64 = 512;
const MAX_DIMENSIONS: u32 = 4;
/// Bytes of the shortest tensor info: an empty name, the number of dimensions, one dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 32;
/// Bytes of the shortest metadata pair: an empty key, its type, a value of one byte.
const MIN_PAIR_BYTES: u64 = 13;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;
/// The smallest request for more bytes, so that a remote header is read in few requests.
const MIN_REQUEST_BYTES: u64 = 1 << 18;

/// One tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// The file's name of the tensor.
    pub name: String,
    /// The element type.
    pub ty: TensorType,
    /// Row-major, outermost dimension first: GGUF's dimensions reversed.
    pub shape: Vec<usize>,
    /// The tensor's place, in bytes from the start of the file.
    pub range: Range<u64>,
}

/// A validated header: names are unique, sizes follow from type and shape, and every tensor lies aligned within the file
/// and overlaps no other.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufHeader {
    /// The version of the format, 2 or 3.
    pub version: u32,
    /// Tensors start at multiples of this many bytes, counted from `data_start`.
    pub alignment: u64,
    /// All key-value pairs.
    pub metadata: Metadata,
    /// All tensors, in the header's order.
    pub tensors: Vec<GgufTensor>,
    /// The start of the data, in bytes from the start of the file.
    pub data_start: u64,
}

impl GgufHeader {
    /// Parses the header of a file of `file_len` bytes from its first bytes. `file` names it in messages.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where the bytes are not a valid header.
    pub fn parse(file: &str, prefix: &[u8], file_len: u64) -> Result<HeaderPrefix<Self>> {
        let mut scanner = Scanner::new(prefix, file_len);
        match scan(file, &mut scanner, file_len) {
            Ok(header) => Ok(HeaderPrefix::Complete(header)),
            Err(Stop::Bad(why)) => Err(Error::invalid(file, why)),
            Err(Stop::More(needed)) => {
                let request = (prefix.len() as u64).saturating_mul(2).max(MIN_REQUEST_BYTES);
                Ok(HeaderPrefix::NeedMore(needed.max(request).min(file_len)))
            }
        }
    }
}

fn scan(file: &str, scanner: &mut Scanner<'_>, file_len: u64) -> Result<GgufHeader, Stop> {
    if file_len == 0 {
        return Err("is empty".into());
    }
    if &scanner.array::<4>()? != b"GGUF" {
        return Err("does not begin with 'GGUF'".into());
    }
    let version = scanner.u32()?;
    if version.trailing_zeros() >= 16 && version != 0 {
        return Err("is big-endian, only little-endian files are read".into());
    }
    if !(2..=3).contains(&version) {
        return Err(format!("version {version} is not supported, 2 and 3 are").into());
    }
    let tensor_count = scanner.count("tensors", MAX_TENSORS, MIN_TENSOR_BYTES)?;
    let pair_count = scanner.count("metadata pairs", MAX_PAIRS, MIN_PAIR_BYTES)?;
    let metadata = Metadata { file: file.to_owned(), pairs: pairs(scanner, pair_count)? };
    let alignment = alignment(&metadata)?;
    let entries: Vec<TensorEntry<'_>> =
        (0..tensor_count).map(|_| TensorEntry::scan(scanner)).collect::<Result<_, Stop>>()?;
    let data_start = scanner.position().next_multiple_of(alignment);
    let tensors = place(entries, data_start, alignment, file_len)?;
    Ok(GgufHeader { version, alignment, metadata, tensors, data_start })
}

fn pairs(scanner: &mut Scanner<'_>, count: u64) -> Result<BTreeMap<String, Value>, Stop> {
    let mut pairs = BTreeMap::new();
    for _ in 0..count {
        let key = scanner.string("metadata key", MAX_KEY_BYTES)?;
        let kind = scanner.u32()?;
        let value = scanner.value(kind).map_err(|stop| match stop {
            Stop::Bad(why) => Stop::Bad(format!("metadata '{}': {why}", excerpt(key))),
            more @ Stop::More(_) => more,
        })?;
        if pairs.insert(key.to_owned(), value).is_some() {
            return Err(format!("metadata '{}' occurs twice", excerpt(key)).into());
        }
    }
    Ok(pairs)
}

fn alignment(metadata: &Metadata) -> Result<u64, String> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    match value {
        Value::U32(alignment) if alignment.is_power_of_two() && u64::from(*alignment) <= MAX_ALIGNMENT => {
            Ok((*alignment).into())
        }
        Value::U32(alignment) => {
            Err(format!("general.alignment {alignment} is not a power of two from 1 to {MAX_ALIGNMENT}"))
        }
        _ => Err("general.alignment is not a 32-bit unsigned number".to_owned()),
    }
}

/// A tensor info whose place in the file is not checked yet.
struct TensorEntry<'a> {
    name: &'a str,
    ty: TensorType,
    shape: Vec<usize>,
    bytes: u64,
    offset: u64,
}

impl<'a> TensorEntry<'a> {
    fn scan(scanner: &mut Scanner<'a>) -> Result<Self, Stop> {
        let name = scanner.string("tensor name", MAX_NAME_BYTES)?;
        let bad = |why: String| Stop::Bad(format!("tensor '{}': {why}", excerpt(name)));
        let dimensions = scanner.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(bad(format!("{dimensions} dimensions, 1 to {MAX_DIMENSIONS} are allowed")));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let dimension = scanner.u64()?;
            match usize::try_from(dimension) {
                Ok(dimension) if dimension > 0 => shape.push(dimension),
                _ => return Err(bad(format!("dimension {dimension}"))),
            }
        }
        shape.reverse();
        let id = scanner.u32()?;
        let offset = scanner.u64()?;
        let ty = TensorType::from_gguf_id(id)
            .ok_or_else(|| bad(format!("type {} is not supported", type_name(id))))?;
        let Some(bytes) = ty.bytes_for(&shape) else {
            return Err(bad(format!("shape {shape:?} overflows or its rows are not whole blocks of {ty}")));
        };
        Ok(Self { name, ty, shape, bytes, offset })
    }
}

/// Returns the name of a ggml type that this crate does not read.
fn type_name(id: u32) -> String {
    let name = match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        40 => "NVFP4",
        _ => return format!("{id} (unknown)"),
    };
    name.to_owned()
}

/// Checks the place of each tensor.
fn place(
    entries: Vec<TensorEntry<'_>>,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<Vec<GgufTensor>, Stop> {
    let mut names = HashSet::new();
    let mut tensors = Vec::with_capacity(entries.len());
    for TensorEntry { name, ty, shape, bytes, offset } in entries {
        let bad = |why: String| Err(Stop::Bad(format!("tensor '{}': {why}", excerpt(name))));
        if !names.insert(name) {
            return bad("occurs twice".to_owned());
        }
        if !offset.is_multiple_of(alignment) {
            return bad(format!("offset {offset} is not aligned to {alignment}"));
        }
        let Some(start) = data_start.checked_add(offset) else {
            return bad(format!("offset {offset} overflows"));
        };
        match start.checked_add(bytes) {
            Some(end) if end <= file_len => {
                tensors.push(GgufTensor { name: name.to_owned(), ty, shape, range: start..end });
            }
            _ => return bad(format!("{bytes} bytes at {start} run past the end of the file of {file_len}")),
        }
    }
    let mut by_place: Vec<&GgufTensor> = tensors.iter().collect();
    by_place.sort_by_key(|tensor| tensor.range.start);
    for pair in by_place.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            let (first, second) = (excerpt(&pair[0].name), excerpt(&pair[1].name));
            return Err(format!("tensors '{first}' and '{second}' overlap").into());
        }
    }
    Ok(tensors)
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
