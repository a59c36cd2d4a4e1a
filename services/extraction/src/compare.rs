//! Compares two complete folders: identical, or the first array, sample and position that differ.

use std::path::Path;

use crate::{
    error::{Error, Result},
    metadata::{Metadata, OutputFile},
    npy::{ArrayFile, DataType, Header},
    plan_file::{MASK, TOKENS},
};

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// All files are the same, to the byte.
    Identical,
    /// A file differs.
    Different(Difference),
}

/// The first difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The file.
    pub file: String,
    /// The sample's index within the folder; 0 where the file has no samples.
    pub sample: u64,
    /// The index in the array's second dimension; 0 where the file has none.
    pub position: u64,
    /// The difference in words.
    pub message: String,
}

/// Compares the folders. Tokens and mask come first, then the activations in the order of their computation, then the
/// other files. `progress` receives the bytes of each piece that is read, and returns whether to go on.
///
/// Files with equal checksums are not read again: the metadata was made from the files.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Cancelled`] or [`Error::Io`].
pub fn compare(one: &Path, other: &Path, progress: &mut dyn FnMut(u64) -> bool) -> Result<Comparison> {
    let (left, right) = (Metadata::load(one)?, Metadata::load(other)?);
    let different = |file: &str, message: String| {
        let file = file.to_owned();
        Ok(Comparison::Different(Difference { file, sample: 0, position: 0, message }))
    };
    if (left.samples, left.sequence_length) != (right.samples, right.sequence_length) {
        let size =
            |metadata: &Metadata| format!("{} samples of {}", metadata.samples, metadata.sequence_length);
        return different(TOKENS, format!("{} and {} tokens", size(&left), size(&right)));
    }
    let shape = |dtype| Header { dtype, shape: vec![left.samples, left.sequence_length] };
    let mut arrays =
        vec![(TOKENS.to_owned(), shape(DataType::I32)), (MASK.to_owned(), shape(DataType::Bool))];
    for array in &left.arrays {
        let same = right.arrays.iter().find(|found| found.file == array.file);
        if same.is_none_or(|found| found.header() != array.header()) {
            return different(&array.file, "it has another shape or type, or is missing".to_owned());
        }
        arrays.push((array.file.clone(), array.header()));
    }
    if let Some(extra) =
        right.arrays.iter().find(|found| left.arrays.iter().all(|array| array.file != found.file))
    {
        return different(&extra.file, "it is in one of the two only".to_owned());
    }
    let checksum = |metadata: &Metadata, name: &str| find(metadata, name).map(|file| file.sha256);
    for (name, header) in &arrays {
        if checksum(&left, name) == checksum(&right, name) {
            continue;
        }
        if let Some(difference) = first_difference(one, other, name, header, progress)? {
            return Ok(Comparison::Different(difference));
        }
    }
    for OutputFile { name, sha256, .. } in left.files.iter().chain(&right.files) {
        let has = |metadata: &Metadata| checksum(metadata, name).as_ref() == Some(sha256);
        let is_array = arrays.iter().any(|(array, _)| array == name);
        let is_equal = has(&left) && has(&right);
        if !is_array && !is_equal {
            return different(name, "its content differs".to_owned());
        }
    }
    Ok(Comparison::Identical)
}

fn find(metadata: &Metadata, name: &str) -> Option<OutputFile> {
    metadata.all_files().find(|file| file.name == name)
}

/// Finds the first element that differs.
fn first_difference(
    one: &Path,
    other: &Path,
    name: &str,
    header: &Header,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<Difference>> {
    const PIECE: u64 = 1 << 18;
    let (left, right) =
        (ArrayFile::open(&one.join(name), header)?, ArrayFile::open(&other.join(name), header)?);
    let (size, total) = (header.dtype.bytes(), header.elements()?);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut done = 0;
    while done < total {
        let count = PIECE.min(total - done);
        let bytes = count as usize * size;
        first.resize(bytes, 0);
        second.resize(bytes, 0);
        left.read(done, &mut first)?;
        right.read(done, &mut second)?;
        if !progress(bytes as u64) {
            return Err(Error::Cancelled);
        }
        if let Some(byte) = first.iter().zip(&second).position(|(left, right)| left != right) {
            let element = byte / size;
            let values = [&first, &second].map(|bytes| shown(header.dtype, &bytes[element * size..][..size]));
            return Ok(Some(describe(name, header, done + element as u64, &values)));
        }
        done += count;
    }
    Ok(None)
}

fn describe(name: &str, header: &Header, element: u64, values: &[String; 2]) -> Difference {
    let width: u64 = header.shape.iter().skip(2).product();
    let columns = header.shape.get(1).copied().unwrap_or(1).max(1);
    let row = element / width.max(1);
    let (sample, position) = (row / columns, row % columns);
    let [left, right] = values;
    let index = element % width.max(1);
    let message = format!(
        "{name}: sample {sample}, position {position}, number {index} is {left} in one and {right} in the other"
    );
    Difference { file: name.to_owned(), sample, position, message }
}

fn shown(dtype: DataType, bytes: &[u8]) -> String {
    match (dtype, bytes) {
        (DataType::I32, [a, b, c, d]) => i32::from_le_bytes([*a, *b, *c, *d]).to_string(),
        (DataType::Bool, [byte]) => (*byte != 0).to_string(),
        (DataType::F32 | DataType::F16 | DataType::Bf16, bytes) => {
            let mut numbers = Vec::new();
            dtype.decode(bytes, &mut numbers);
            numbers.first().map_or_else(String::new, f32::to_string)
        }
        _ => String::new(),
    }
}
