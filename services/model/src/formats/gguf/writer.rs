//! Writes GGUF version 3 as a stream: header, metadata and the table of tensors first, then each tensor's bytes in the
//! table's order. Nothing is buffered, so a file of any size takes no more memory than the caller's pieces.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::HashSet;
use std::io::{self, Write};

use super::metadata::{Array, Value};
use crate::tensor::TensorInfo;

/// Every tensor starts at a multiple of this many bytes, counted from the start of the data.
pub const ALIGNMENT: u64 = 32;
/// llama.cpp refuses longer tensor names (`GGML_MAX_NAME` less the terminator).
const MAX_NAME_BYTES: usize = 63;
const MAX_DIMENSIONS: usize = 4;

/// Keys and values, in the order in which they are written.
pub type Pairs = Vec<(String, Value)>;

/// A file being written: first its tables, then every tensor's bytes in order.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// The bytes of each tensor.
    sizes: Vec<u64>,
    /// The tensor that is being written.
    current: usize,
    /// The bytes of the current tensor written so far.
    written: u64,
    /// The bytes of the file written so far.
    position: u64,
}

impl<W: Write> Writer<W> {
    /// Writes everything that comes before the data.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for tables that no reader would accept (a name twice or too long, a size that does
    /// not follow from type and shape), and the errors of `out`.
    pub fn begin(out: W, metadata: &[(String, Value)], tensors: &[TensorInfo]) -> io::Result<Self> {
        validate(metadata, tensors)?;
        let mut head = Vec::new();
        head.extend(b"GGUF");
        head.extend(3_u32.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_string(&mut head, key);
            put_value(&mut head, value);
        }
        let mut offset = 0;
        for tensor in tensors {
            put_string(&mut head, &tensor.name);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            // GGUF lists the innermost dimension first.
            for dimension in tensor.shape.iter().rev() {
                head.extend((*dimension as u64).to_le_bytes());
            }
            head.extend(tensor.ty.gguf_id().to_le_bytes());
            head.extend(u64::to_le_bytes(offset));
            offset = (offset + tensor.bytes).next_multiple_of(ALIGNMENT);
        }
        let sizes = tensors.iter().map(|tensor| tensor.bytes).collect();
        let mut writer = Self { out, sizes, current: 0, written: 0, position: 0 };
        writer.put(&head)?;
        writer.pad()?;
        Ok(writer)
    }

    /// Writes more bytes of the current tensor. After its last byte the next tensor becomes the current one.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for more bytes than the tensor has, and the errors of `out`.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size =
            *self.sizes.get(self.current).ok_or_else(|| invalid_input("bytes after the last tensor"))?;
        if bytes.len() as u64 > size - self.written {
            return Err(invalid_input("more bytes than the tensor has"));
        }
        self.put(bytes)?;
        self.written += bytes.len() as u64;
        if self.written == size {
            self.pad()?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Flushes, and returns the inner writer with the size of the whole file in bytes. The caller syncs the file to disk.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] where tensors are missing, and the errors of `out`.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        if self.current < self.sizes.len() {
            return Err(invalid_input("tensors are missing"));
        }
        self.out.flush()?;
        Ok((self.out, self.position))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.position.next_multiple_of(ALIGNMENT) - self.position;
        self.put(&[0; ALIGNMENT as usize][..missing as usize])
    }
}

fn invalid_input(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.into())
}

fn validate(metadata: &[(String, Value)], tensors: &[TensorInfo]) -> io::Result<()> {
    let mut keys = HashSet::new();
    if let Some((key, _)) = metadata.iter().find(|(key, _)| !keys.insert(key)) {
        return Err(invalid_input(format!("metadata key '{key}' twice")));
    }
    let mut names = HashSet::new();
    for tensor in tensors {
        let name = &tensor.name;
        if !names.insert(name) {
            return Err(invalid_input(format!("tensor '{name}' twice")));
        }
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(invalid_input(format!(
                "tensor name '{name}' is empty or longer than {MAX_NAME_BYTES} bytes"
            )));
        }
        if tensor.shape.is_empty() || tensor.shape.len() > MAX_DIMENSIONS || tensor.shape.contains(&0) {
            return Err(invalid_input(format!("tensor '{name}' has shape {:?}", tensor.shape)));
        }
        if tensor.ty.bytes_for(&tensor.shape) != Some(tensor.bytes) {
            return Err(invalid_input(format!(
                "tensor '{name}': {} bytes do not follow from its shape",
                tensor.bytes
            )));
        }
    }
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// gguf.md's `gguf_metadata_value_type`.
mod id {
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => scalar(out, 0, v.to_le_bytes()),
        Value::I8(v) => scalar(out, 1, v.to_le_bytes()),
        Value::U16(v) => scalar(out, 2, v.to_le_bytes()),
        Value::I16(v) => scalar(out, 3, v.to_le_bytes()),
        Value::U32(v) => scalar(out, 4, v.to_le_bytes()),
        Value::I32(v) => scalar(out, 5, v.to_le_bytes()),
        Value::F32(v) => scalar(out, 6, v.to_le_bytes()),
        Value::Bool(v) => scalar(out, 7, [u8::from(*v)]),
        Value::U64(v) => scalar(out, 10, v.to_le_bytes()),
        Value::I64(v) => scalar(out, 11, v.to_le_bytes()),
        Value::F64(v) => scalar(out, 12, v.to_le_bytes()),
        Value::String(v) => {
            out.extend(id::STRING.to_le_bytes());
            put_string(out, v);
        }
        Value::Array(list) => put_array(out, list),
    }
}

fn put_array(out: &mut Vec<u8>, list: &Array) {
    out.extend(id::ARRAY.to_le_bytes());
    match list {
        Array::U8(v) => items(out, 0, v, |n| n.to_le_bytes()),
        Array::I8(v) => items(out, 1, v, |n| n.to_le_bytes()),
        Array::U16(v) => items(out, 2, v, |n| n.to_le_bytes()),
        Array::I16(v) => items(out, 3, v, |n| n.to_le_bytes()),
        Array::U32(v) => items(out, 4, v, |n| n.to_le_bytes()),
        Array::I32(v) => items(out, 5, v, |n| n.to_le_bytes()),
        Array::F32(v) => items(out, 6, v, |n| n.to_le_bytes()),
        Array::Bool(v) => items(out, 7, v, |flag| [u8::from(*flag)]),
        Array::U64(v) => items(out, 10, v, |n| n.to_le_bytes()),
        Array::I64(v) => items(out, 11, v, |n| n.to_le_bytes()),
        Array::F64(v) => items(out, 12, v, |n| n.to_le_bytes()),
        Array::String(v) => {
            array_head(out, id::STRING, v.len());
            for text in v {
                put_string(out, text);
            }
        }
    }
}

fn scalar<const BYTES: usize>(out: &mut Vec<u8>, id: u32, bytes: [u8; BYTES]) {
    out.extend(id.to_le_bytes());
    out.extend(bytes);
}

fn items<T, const BYTES: usize>(out: &mut Vec<u8>, id: u32, list: &[T], bytes: impl Fn(&T) -> [u8; BYTES]) {
    array_head(out, id, list.len());
    for item in list {
        out.extend(bytes(item));
    }
}

fn array_head(out: &mut Vec<u8>, id: u32, length: usize) {
    out.extend(id.to_le_bytes());
    out.extend((length as u64).to_le_bytes());
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
