//! An opened Parquet file: its footer, checked before the `parquet` crate reads it.
//!
//! The crate builds the schema by recursion and reserves memory for as many children as a group claims to have. A stack
//! overflow or a failed allocation would end the process, so the tree is checked here first, in one pass without
//! recursion. <https://github.com/apache/parquet-format> describes the format.

use std::{
    fs::File,
    io::{self, BufReader, Read, Take},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::parquet::{
    errors::{ParquetError, Result as ParquetResult},
    file::{
        metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
        reader::{ChunkReader, Length},
    },
    schema::types::SchemaDescriptor,
};
use bytes::Bytes;
use polars_parquet_format::thrift::protocol::{TCompactInputProtocol, TInputProtocol, TType};

use super::guarded;
use crate::{
    error::{Error, Result, excerpt},
    limits::{MAX_COLUMNS, MAX_FOOTER_BYTES, MAX_NAME_BYTES, MAX_PAGE_BYTES, MAX_SCHEMA_DEPTH},
    source::open_regular,
};

/// The length of the footer and the magic bytes, at the end of a file.
const TAIL_BYTES: u64 = 8;
const MAGIC: &[u8] = b"PAR1";
const ENCRYPTED_MAGIC: &[u8] = b"PARE";
/// Page headers hold statistics, but no more than this.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// The most elements of a schema: columns, and the groups that hold them.
const MAX_ELEMENTS: usize = 4 * MAX_COLUMNS;

/// A file with its metadata.
pub(super) struct ParquetFile {
    path: PathBuf,
    chunks: Arc<Chunks>,
    metadata: ParquetMetaData,
}

impl ParquetFile {
    /// Opens a file and reads its footer.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::Io`].
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (file, length) = open_regular(path)?;
        let invalid = |why: &str| Error::file(path, why);
        let read = |start: u64, bytes: usize| {
            let mut buffer = vec![0; bytes];
            file.read_exact_at(&mut buffer, start).map_err(|error| Error::io(path, error))?;
            Ok::<_, Error>(buffer)
        };
        let Some(tail_start) = length.checked_sub(TAIL_BYTES) else {
            return Err(invalid("is no Parquet file"));
        };
        let tail = read(tail_start, TAIL_BYTES as usize)?;
        let (size, magic) = tail.split_at(4);
        match magic {
            MAGIC => {}
            ENCRYPTED_MAGIC => return Err(invalid("is encrypted, which is not supported")),
            _ => return Err(invalid("is no Parquet file, or was cut off: it does not end with PAR1")),
        }
        let size = size.iter().rev().fold(0_usize, |size, byte| (size << 8) | usize::from(*byte));
        if size > MAX_FOOTER_BYTES {
            let why = format!("has a footer of {size} bytes, the limit is {MAX_FOOTER_BYTES}");
            return Err(invalid(&why));
        }
        let start = tail_start.checked_sub(size as u64);
        let start = start.ok_or_else(|| invalid("is damaged: its footer is longer than the file"))?;
        let footer = read(start, size)?;
        check_schema(&footer).map_err(|why| invalid(&format!("has a footer that is damaged: {why}")))?;
        let metadata = guarded(|| ParquetMetaDataReader::decode_metadata(&footer));
        let metadata = metadata.map_err(|why| invalid(&format!("has a footer that is damaged: {why}")))?;
        let chunks = Arc::new(Chunks { file: Arc::new(file), length });
        let file = Self { path: path.to_owned(), chunks, metadata };
        file.check_rows()?;
        Ok(file)
    }

    fn check_rows(&self) -> Result<()> {
        let invalid = |why: &str| Err(Error::file(&self.path, why));
        let mut rows = 0_i64;
        for group in self.metadata.row_groups() {
            match rows.checked_add(group.num_rows()).filter(|_| group.num_rows() >= 0) {
                Some(sum) => rows = sum,
                None => return invalid("is damaged: a row group has an impossible number of rows"),
            }
        }
        if rows != self.metadata.file_metadata().num_rows() {
            return invalid("is damaged: its row groups have another number of rows than the file");
        }
        if self.schema().root_schema().get_fields().len() > MAX_COLUMNS {
            return invalid(&format!("has more than {MAX_COLUMNS} columns"));
        }
        Ok(())
    }

    /// Returns the file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file's bytes.
    pub(super) fn chunks(&self) -> &Arc<Chunks> {
        &self.chunks
    }

    /// Returns the schema.
    pub(super) fn schema(&self) -> &SchemaDescriptor {
        self.metadata.file_metadata().schema_descr()
    }

    /// Returns a row group.
    pub(super) fn group(&self, index: usize) -> &RowGroupMetaData {
        self.metadata.row_group(index)
    }

    /// Returns the rows of a row group; `None` after the last.
    pub(super) fn group_rows(&self, index: usize) -> Option<u64> {
        self.metadata.row_groups().get(index).map(|group| group.num_rows() as u64)
    }

    /// Returns the rows of the file.
    pub(super) fn row_count(&self) -> u64 {
        self.metadata.file_metadata().num_rows() as u64
    }
}

/// The bytes of a file, as the `parquet` crate asks for them.
pub(super) struct Chunks {
    file: Arc<File>,
    length: u64,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Chunks {
    type T = Take<BufReader<FileAt>>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let file = FileAt { file: Arc::clone(&self.file), position: start };
        Ok(BufReader::new(file).take(MAX_HEADER_BYTES))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let end = start.checked_add(length as u64);
        if length > MAX_PAGE_BYTES || end.is_none_or(|end| end > self.length) {
            let why = format!(
                "a page has {length} bytes, which is more than the file or the limit {MAX_PAGE_BYTES}"
            );
            return Err(ParquetError::General(why));
        }
        let mut buffer = vec![0; length];
        self.file.read_exact_at(&mut buffer, start)?;
        Ok(buffer.into())
    }
}

/// Reads a file from a position on. Several readers of one file do not disturb each other.
pub(super) struct FileAt {
    file: Arc<File>,
    position: u64,
}

impl Read for FileAt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(buffer, self.position)?;
        self.position += bytes as u64;
        Ok(bytes)
    }
}

/// The fields of `FileMetaData` and `SchemaElement` that are checked.
const SCHEMA: i16 = 2;
const NAME: i16 = 4;
const CHILDREN: i16 = 5;

/// The deepest nesting of what is not checked.
const MAX_SKIPPED_DEPTH: u32 = 32;

/// Checks the schemas of a footer: names, the number of elements, and the nesting.
fn check_schema(footer: &[u8]) -> Result<(), String> {
    // What a valid footer takes at most by the library's own count.
    let budget = footer.len().saturating_mul(16).saturating_add(1 << 20);
    let mut input = TCompactInputProtocol::new(footer, budget);
    let mut is_found = false;
    input.read_struct_begin().map_err(unread)?;
    loop {
        let field = input.read_field_begin().map_err(unread)?;
        match (field.field_type, field.id) {
            (TType::Stop, _) if is_found => return Ok(()),
            (TType::Stop, _) => return Err("it has no schema".to_owned()),
            (TType::List, Some(SCHEMA)) => {
                check_tree(&read_elements(&mut input)?)?;
                is_found = true;
            }
            (other, _) => skip(&mut input, other, MAX_SKIPPED_DEPTH)?,
        }
    }
}

fn unread(error: polars_parquet_format::thrift::Error) -> String {
    excerpt(&error.to_string())
}

/// Reads a list of schema elements and returns the number of children of each.
fn read_elements(input: &mut impl TInputProtocol) -> Result<Vec<i32>, String> {
    let list = input.read_list_begin().map_err(unread)?;
    if list.element_type != TType::Struct || list.size as usize > MAX_ELEMENTS {
        return Err(format!("its schema has {} elements, the limit is {MAX_ELEMENTS}", list.size));
    }
    let mut all = Vec::new();
    for _ in 0..list.size {
        let mut children = 0;
        input.read_struct_begin().map_err(unread)?;
        loop {
            let field = input.read_field_begin().map_err(unread)?;
            match (field.field_type, field.id) {
                (TType::Stop, _) => break,
                (TType::String, Some(NAME)) => {
                    let name = input.read_bytes().map_err(unread)?;
                    if name.len() > MAX_NAME_BYTES {
                        return Err(format!("a column's name is longer than {MAX_NAME_BYTES} bytes"));
                    }
                }
                (TType::I32, Some(CHILDREN)) => children = input.read_i32().map_err(unread)?,
                (other, _) => skip(input, other, MAX_SKIPPED_DEPTH)?,
            }
        }
        input.read_struct_end().map_err(unread)?;
        all.push(children);
    }
    Ok(all)
}

/// Skips a value. The library's own way takes every string for UTF-8, and statistics are bytes.
fn skip(input: &mut impl TInputProtocol, kind: TType, depth: u32) -> Result<(), String> {
    let depth = depth.checked_sub(1).ok_or_else(|| "it is nested too deeply".to_owned())?;
    match kind {
        TType::String => drop(input.read_bytes().map_err(unread)?),
        TType::Struct => {
            input.read_struct_begin().map_err(unread)?;
            loop {
                let field = input.read_field_begin().map_err(unread)?;
                if field.field_type == TType::Stop {
                    break;
                }
                skip(input, field.field_type, depth)?;
            }
            input.read_struct_end().map_err(unread)?;
        }
        TType::List => {
            let list = input.read_list_begin().map_err(unread)?;
            for _ in 0..list.size {
                skip(input, list.element_type, depth)?;
            }
        }
        // The format has no sets and no maps of strings.
        other => input.skip(other).map_err(unread)?,
    }
    Ok(())
}

/// Checks that the children form one tree that is not too deep. They come depth first; the first is the root.
fn check_tree(children: &[i32]) -> Result<(), String> {
    let wrong = || "its schema is no tree".to_owned();
    // For each group that is open, the children that are still to come.
    let mut open = vec![1_u64];
    for count in children {
        while open.last() == Some(&0) {
            open.pop();
        }
        *open.last_mut().ok_or_else(wrong)? -= 1;
        let count = u64::try_from(*count).map_err(|_| wrong())?;
        if count > children.len() as u64 {
            return Err(wrong());
        }
        if count > 0 {
            open.push(count);
            if open.len() > MAX_SCHEMA_DEPTH + 1 {
                return Err(format!("its schema is nested deeper than {MAX_SCHEMA_DEPTH} levels"));
            }
        }
    }
    if open.iter().all(|left| *left == 0) { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trees_pass() {
        let check = |children: &[i32], expected: &str| {
            let found = check_tree(children).map_or_else(|why| why, |()| "good".to_owned());
            assert!(found.contains(expected), "{children:?}: {found}");
        };
        check(&[2, 0, 1, 0], "good");
        check(&[0], "good");
        check(&[1, 1, 1, 0], "good");
        for bad in [&[][..], &[2, 0], &[1, 0, 0], &[-1], &[i32::MAX, 0], &[1, 2, 0]] {
            check(bad, "no tree");
        }
        let mut chain = vec![1; MAX_SCHEMA_DEPTH];
        chain.push(0);
        check(&chain, "good");
        chain.insert(0, 1);
        check(&chain, "deeper than 32");
        check(&[vec![1; 9999], vec![0]].concat(), "deeper than 32");
    }
}
