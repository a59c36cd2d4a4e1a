//! Arrays as numpy stores them: files with a header of the npy format, version 1.0, and little-endian numbers in C order
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
//!
//! An array has its final size from the start, and its numbers are written at their offsets, in any order. Parts that
//! are not written are zeros, and take no space where the file system has holes. Until an array is complete, its name
//! ends in `.partial`.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use serde::{Deserialize, Serialize};

use crate::error::{At as _, Error, Result};

/// The most bytes of an array: what a file's offset can address.
pub const MAX_BYTES: u64 = i64::MAX as u64;

/// Headers are padded to a multiple of this.
const ALIGNMENT: usize = 64;

/// The element type of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataType {
    /// IEEE 754 single precision.
    #[serde(rename = "float32")]
    F32,
    /// IEEE 754 half precision.
    #[serde(rename = "float16")]
    F16,
    /// The upper half of a single-precision number. numpy has no such type: the file holds its bits as uint16.
    #[serde(rename = "bfloat16")]
    Bf16,
    /// A 32-bit integer.
    #[serde(rename = "int32")]
    I32,
    /// A byte that is 0 or 1.
    Bool,
}

impl DataType {
    /// Returns the name in metadata: `float32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::I32 => "int32",
            Self::Bool => "bool",
        }
    }

    /// Returns numpy's description of the type as the file has it.
    pub const fn descr(self) -> &'static str {
        match self {
            Self::F32 => "<f4",
            Self::F16 => "<f2",
            Self::Bf16 => "<u2",
            Self::I32 => "<i4",
            Self::Bool => "|b1",
        }
    }

    /// Returns the bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Bool => 1,
        }
    }

    /// Appends numbers in this type to `out`, rounded to the nearest (ties to even) where it is narrower.
    ///
    /// # Panics
    /// For types that are no floats.
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + values.len() * self.bytes(), 0);
        let out = &mut out[start..];
        match self {
            Self::F32 => {
                for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *bytes = value.to_le_bytes();
                }
            }
            Self::F16 => encode_halves::<f16>(values, out),
            Self::Bf16 => encode_halves::<bf16>(values, out),
            Self::I32 | Self::Bool => panic!("activations are floats"),
        }
    }

    /// Appends numbers of this type to `out`. Incomplete ones at the end are left out.
    ///
    /// # Panics
    /// For types that are no floats.
    pub fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
            Self::F16 => {
                out.extend(bytes.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()));
            }
            Self::Bf16 => {
                out.extend(bytes.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()));
            }
            Self::I32 | Self::Bool => panic!("activations are floats"),
        }
    }
}

/// Converts numbers in blocks, so that little further memory is needed.
fn encode_halves<H: Copy + Default>(values: &[f32], out: &mut [u8])
where
    [H]: HalfFloatSliceExt,
{
    const BLOCK: usize = 256;
    let mut block = [H::default(); BLOCK];
    for (values, out) in values.chunks(BLOCK).zip(out.chunks_mut(2 * BLOCK)) {
        let halves = &mut block[..values.len()];
        halves.convert_from_f32_slice(values);
        for (bytes, bits) in out.as_chunks_mut::<2>().0.iter_mut().zip(halves.reinterpret_cast()) {
            *bytes = bits.to_le_bytes();
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// The type and shape of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Of the elements.
    pub dtype: DataType,
    /// Outermost dimension first.
    pub shape: Vec<u64>,
}

impl Header {
    /// Returns the header's bytes as they begin the file: magic, version, length, and a Python dictionary padded with
    /// spaces.
    pub fn to_bytes(&self) -> Vec<u8> {
        const PREFIX: usize = 10;
        let mut shape = String::new();
        for size in &self.shape {
            shape.push_str(&format!("{size}, "));
        }
        // A tuple of one keeps its comma.
        let shape = if self.shape.len() == 1 { shape.trim_end() } else { shape.trim_end_matches(", ") };
        let mut text =
            format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({shape}), }}", self.dtype.descr());
        let unpadded = PREFIX + text.len() + 1;
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        text.extend(std::iter::repeat_n(' ', padding));
        text.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        // A shape of any layout is far shorter than the 65,535 bytes that this can say.
        bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    /// Returns the number of elements.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where the array has more than [`MAX_BYTES`] bytes.
    pub fn elements(&self) -> Result<u64> {
        let elements = self.shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        let too_large = Error::TooLarge { limit: MAX_BYTES };
        let Some(elements) = elements else { return Err(too_large) };
        let bytes = elements.checked_mul(self.dtype.bytes() as u64);
        if bytes.is_none_or(|bytes| bytes > MAX_BYTES - (1 << 16)) { Err(too_large) } else { Ok(elements) }
    }

    /// Returns the bytes of the whole file.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where the array has more than [`MAX_BYTES`] bytes.
    pub fn file_bytes(&self) -> Result<u64> {
        Ok(self.elements()? * self.dtype.bytes() as u64 + self.to_bytes().len() as u64)
    }
}

/// Writes to files. Tests replace it by a disk that is full.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Writes all bytes at an offset of a file.
    ///
    /// # Errors
    /// The system's error.
    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
}

/// The real disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }
}

/// An array on disk.
#[derive(Debug)]
pub struct ArrayFile {
    file: File,
    path: PathBuf,
    dtype: DataType,
    elements: u64,
    /// Bytes of the header.
    start: u64,
    disk: Arc<dyn Disk>,
}

impl ArrayFile {
    /// Creates the incomplete array of `path`, all zeros, in place of one that there is.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::DiskFull`] or [`Error::Io`].
    pub fn create(path: &Path, header: &Header, disk: Arc<dyn Disk>) -> Result<Self> {
        let bytes = header.file_bytes()?;
        let partial = partial(path);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&partial).at(&partial)?;
        file.set_len(bytes).at(&partial)?;
        disk.write_all_at(&file, &header.to_bytes(), 0).at(&partial)?;
        Self::with(file, partial, header, disk)
    }

    /// Opens the incomplete array of `path` to write what is missing.
    ///
    /// # Errors
    /// [`Error::Io`] where there is none, [`Error::Damaged`] where it is another array.
    pub fn resume(path: &Path, header: &Header, disk: Arc<dyn Disk>) -> Result<Self> {
        let partial = partial(path);
        let file = OpenOptions::new().read(true).write(true).open(&partial).at(&partial)?;
        check(&file, &partial, header)?;
        Self::with(file, partial, header, disk)
    }

    /// Opens a complete array to read it.
    ///
    /// # Errors
    /// [`Error::Io`] where there is none, [`Error::Damaged`] where it has another header or length.
    pub fn open(path: &Path, header: &Header) -> Result<Self> {
        let file = File::open(path).at(path)?;
        check(&file, path, header)?;
        Self::with(file, path.to_owned(), header, Arc::new(RealDisk))
    }

    fn with(file: File, path: PathBuf, header: &Header, disk: Arc<dyn Disk>) -> Result<Self> {
        let start = header.to_bytes().len() as u64;
        Ok(Self { file, path, dtype: header.dtype, elements: header.elements()?, start, disk })
    }

    /// Returns the element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Writes elements as bytes, from the element with this index on.
    ///
    /// # Errors
    /// [`Error::DiskFull`] or [`Error::Io`].
    pub fn write(&self, element: u64, bytes: &[u8]) -> Result<()> {
        let offset = self.offset(element, bytes.len())?;
        self.disk.write_all_at(&self.file, bytes, offset).at(&self.path)
    }

    /// Reads elements as bytes, from the element with this index on.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] for elements beyond the array's end.
    pub fn read(&self, element: u64, bytes: &mut [u8]) -> Result<()> {
        let offset = self.offset(element, bytes.len())?;
        self.file.read_exact_at(bytes, offset).at(&self.path)
    }

    fn offset(&self, element: u64, bytes: usize) -> Result<u64> {
        let size = self.dtype.bytes() as u64;
        let end = element.checked_add((bytes as u64).div_ceil(size));
        if end.is_some_and(|end| end <= self.elements) {
            Ok(self.start + element * size)
        } else {
            let why =
                format!("element {element} and {bytes} bytes are beyond its {} elements", self.elements);
            Err(Error::damaged(&self.path, why))
        }
    }

    /// Waits until everything written is on the disk.
    ///
    /// # Errors
    /// [`Error::DiskFull`] or [`Error::Io`].
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().at(&self.path)
    }
}

/// Returns the name of a file until it is complete.
pub(crate) fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".partial");
    name.into()
}

/// Gives a complete file its final name. A file that has it already stays.
///
/// # Errors
/// [`Error::Io`] where there is neither.
pub(crate) fn complete(path: &Path) -> Result<()> {
    let partial = partial(path);
    match File::open(&partial) {
        Ok(file) => {
            file.sync_all().at(&partial)?;
            fs::rename(&partial, path).at(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_file() => Ok(()),
        Err(error) => Err(Error::io(&partial, error)),
    }
}

fn check(file: &File, path: &Path, header: &Header) -> Result<()> {
    let (length, expected) = (file.metadata().at(path)?.len(), header.file_bytes()?);
    if length != expected {
        return Err(Error::damaged(path, format!("has {length} bytes where {expected} are expected")));
    }
    let expected = header.to_bytes();
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, 0).at(path)?;
    if found == expected {
        return Ok(());
    }
    let dtype = header.dtype.descr();
    Err(Error::damaged(
        path,
        format!("its header is not that of an array of {dtype} with the shape {:?}", header.shape),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_header(dtype: DataType, shape: &[u64], text: &str) {
        let bytes = Header { dtype, shape: shape.to_vec() }.to_bytes();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        assert_eq!(usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), bytes.len() - 10);
        assert_eq!(std::str::from_utf8(&bytes[10..]).unwrap().trim_end(), text);
        assert_eq!(bytes.last(), Some(&b'\n'));
    }

    #[test]
    fn headers_are_those_of_numpy() {
        check_header(
            DataType::F32,
            &[3, 128, 576],
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 128, 576), }",
        );
        check_header(DataType::Bf16, &[5], "{'descr': '<u2', 'fortran_order': False, 'shape': (5,), }");
        check_header(DataType::Bool, &[], "{'descr': '|b1', 'fortran_order': False, 'shape': (), }");
        check_header(DataType::I32, &[0, 2], "{'descr': '<i4', 'fortran_order': False, 'shape': (0, 2), }");
    }

    #[test]
    fn numbers_are_rounded_to_the_type() {
        let values: Vec<f32> = (0..700).map(|index| (index as f32 - 350.0) * 0.37).collect();
        for dtype in [DataType::F32, DataType::F16, DataType::Bf16] {
            let (mut bytes, mut back) = (vec![9], Vec::new());
            dtype.encode(&values, &mut bytes);
            assert_eq!(bytes.len(), 1 + values.len() * dtype.bytes());
            dtype.decode(&bytes[1..], &mut back);
            let expected = values.iter().map(|value| match dtype {
                DataType::F16 => f16::from_f32(*value).to_f32(),
                DataType::Bf16 => bf16::from_f32(*value).to_f32(),
                _ => *value,
            });
            assert_eq!(back, expected.collect::<Vec<_>>());
        }
        let mut bytes = Vec::new();
        DataType::F16.encode(&[1.0, 1e6], &mut bytes);
        assert_eq!(bytes, [0x00, 0x3c, 0x00, 0x7c]);
    }

    #[test]
    fn arrays_are_written_in_any_order_and_completed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let header = Header { dtype: DataType::I32, shape: vec![4] };
        let array = ArrayFile::create(&path, &header, Arc::new(RealDisk)).unwrap();
        array.write(3, &7i32.to_le_bytes()).unwrap();
        drop(array);
        assert!(!path.exists() && ArrayFile::open(&path, &header).is_err());
        let array = ArrayFile::resume(&path, &header, Arc::new(RealDisk)).unwrap();
        array.write(1, &5i32.to_le_bytes()).unwrap();
        assert!(matches!(array.write(4, &[0; 4]), Err(Error::Damaged { .. })));
        assert!(matches!(array.write(u64::MAX, &[0; 4]), Err(Error::Damaged { .. })));
        complete(&path).unwrap();
        complete(&path).unwrap();
        let mut bytes = [0; 16];
        ArrayFile::open(&path, &header).unwrap().read(0, &mut bytes).unwrap();
        assert_eq!(bytes[4..8], 5i32.to_le_bytes());
        assert_eq!(bytes[12..], 7i32.to_le_bytes());
        let other = Header { shape: vec![2, 2], ..header };
        let error = ArrayFile::open(&path, &other).unwrap_err().to_string();
        assert!(error.starts_with("a.npy: its header is not"), "{error}");
        assert!(complete(&folder.path().join("b.npy")).is_err());
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let header = |shape: &[u64]| Header { dtype: DataType::F32, shape: shape.to_vec() };
        assert!(header(&[u64::MAX, 2]).elements().is_err() && header(&[1 << 62]).elements().is_err());
        assert_eq!(header(&[3, 0]).elements().unwrap(), 0);
    }
}
