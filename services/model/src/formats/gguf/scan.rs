//! A cursor over the first bytes of a GGUF file. A length that runs past the file is an error; one that runs past the
//! bytes at hand asks for more of them.

use super::metadata::{Array, Value};

/// The largest header that is read. A header holds a vocabulary, a template and perhaps a tokenizer.json: some 60 MB
/// together in the largest published files.
pub const MAX_HEADER_BYTES: u64 = 128 << 20;

const MAX_STRING_BYTES: u64 = 64 << 20;
/// The longest array. The longest ones have an element for each token or merge.
const MAX_ARRAY_LENGTH: u64 = 1 << 22;
/// The most strings in all arrays of a file. Each takes 40 bytes of memory and more, even where it is empty. The largest
/// published vocabularies have 800,000 tokens and merges.
const MAX_STRINGS: u64 = 1 << 21;

/// The reason why scanning ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The first this many bytes are needed.
    More(u64),
    /// The file is not valid, for the reason given.
    Bad(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Bad(why)
    }
}

impl From<&str> for Stop {
    fn from(why: &str) -> Self {
        Self::Bad(why.to_owned())
    }
}

type Scanned<T> = Result<T, Stop>;

pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    file_len: u64,
    /// The number of strings in the arrays read so far.
    strings: u64,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8], file_len: u64) -> Self {
        Self { bytes, at: 0, file_len, strings: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.at as u64
    }

    /// Returns how many bytes of the file follow the cursor.
    pub(super) fn remaining(&self) -> u64 {
        self.file_len.saturating_sub(self.at as u64)
    }

    fn take(&mut self, count: u64) -> Scanned<&'a [u8]> {
        let end = self.at as u64 + count;
        if end > self.file_len {
            return Err(format!("ends at byte {} within the header (truncated)", self.file_len).into());
        }
        if end > MAX_HEADER_BYTES {
            return Err(format!("header is over the limit of {MAX_HEADER_BYTES} bytes").into());
        }
        let Some(taken) = self.bytes.get(self.at..end as usize) else {
            return Err(Stop::More(end));
        };
        self.at = end as usize;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Scanned<[u8; N]> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.try_into().expect("take gives as many as asked for"))
    }

    pub(super) fn u32(&mut self) -> Scanned<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Scanned<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a string of at most `max` bytes; `what` names it in messages.
    pub(super) fn string(&mut self, what: &str, max: u64) -> Scanned<&'a str> {
        let length = self.u64()?;
        if length > max.min(self.remaining()) {
            let why = if length > max { format!("the limit is {max}") } else { self.bytes_left() };
            return Err(format!("{what} at byte {} claims {length} bytes, {why}", self.at).into());
        }
        let start = self.at;
        std::str::from_utf8(self.take(length)?)
            .map_err(|error| format!("{what} is not UTF-8 at byte {}", start + error.valid_up_to()).into())
    }

    fn flag(&mut self) -> Scanned<bool> {
        match self.array::<1>()?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("boolean at byte {} is {other}", self.at - 1).into()),
        }
    }

    fn text(&mut self) -> Scanned<String> {
        self.string("string", MAX_STRING_BYTES).map(str::to_owned)
    }

    /// Reads a value whose type number has been read.
    pub(super) fn value(&mut self, kind: u32) -> Scanned<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array()?)),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(u32::from_le_bytes(self.array()?)),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(self.flag()?),
            8 => Value::String(self.text()?),
            9 => Value::Array(self.list()?),
            10 => Value::U64(u64::from_le_bytes(self.array()?)),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("value type {other} is unknown").into()),
        })
    }

    fn list(&mut self) -> Scanned<Array> {
        let kind = self.u32()?;
        let length = self.u64()?;
        if length > MAX_ARRAY_LENGTH {
            return Err(format!("array of {length} elements is over the limit of {MAX_ARRAY_LENGTH}").into());
        }
        Ok(match kind {
            0 => Array::U8(self.numbers(length, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(length, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(length, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(length, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(length, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(length, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(length, f32::from_le_bytes)?),
            7 => Array::Bool((0..self.fitting(length, 1)?).map(|_| self.flag()).collect::<Scanned<_>>()?),
            8 => Array::String(self.strings(length)?),
            9 => return Err("arrays of arrays are not supported".into()),
            10 => Array::U64(self.numbers(length, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(length, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(length, f64::from_le_bytes)?),
            other => return Err(format!("array element type {other} is unknown").into()),
        })
    }

    fn strings(&mut self, length: u64) -> Scanned<Vec<String>> {
        // Each string has eight bytes of length; the vector grows as strings turn out to exist.
        self.fitting(length, 8)?;
        self.strings += length;
        if self.strings > MAX_STRINGS {
            let found = self.strings;
            return Err(format!("arrays of {found} strings are over the limit of {MAX_STRINGS}").into());
        }
        (0..length).map(|_| self.text()).collect()
    }

    fn bytes_left(&self) -> String {
        format!("{} bytes are left of the file", self.remaining())
    }

    /// Reads a count of at most `max` things that take at least `bytes` each; `what` names them in messages.
    pub(super) fn count(&mut self, what: &str, max: u64, bytes: u64) -> Scanned<u64> {
        let count = self.u64()?;
        if count > max {
            return Err(format!("claims {count} {what}, the limit is {max}").into());
        }
        if count > self.remaining() / bytes {
            return Err(format!("claims {count} {what}, {}", self.bytes_left()).into());
        }
        Ok(count)
    }

    /// Returns `length` if the rest of the file can hold that many elements of at least `bytes` each.
    fn fitting(&self, length: u64, bytes: u64) -> Scanned<u64> {
        if length.saturating_mul(bytes) > self.remaining() {
            return Err(format!(
                "array at byte {} claims {length} elements, more than the file holds",
                self.at
            )
            .into());
        }
        Ok(length)
    }

    fn numbers<const N: usize, T>(&mut self, length: u64, decode: fn([u8; N]) -> T) -> Scanned<Vec<T>> {
        let bytes = self.take(self.fitting(length, N as u64)? * N as u64)?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Ok(chunks.iter().map(|chunk| decode(*chunk)).collect())
    }
}
