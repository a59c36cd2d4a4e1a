//! Comma-separated values: the first record is the header, and every column holds texts.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ::csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::{RowReader, json::cut_text};
use crate::{
    error::{Error, Result, excerpt},
    limits::{MAX_COLUMNS, MAX_NAME_BYTES, MAX_ROW_BYTES},
    row::{Column, Kind, Row},
    source::{Fingerprint, Source},
};

/// The buffer of the `csv` crate, which it may fill beyond the present record.
const BUFFER_BYTES: usize = 64 << 10;
/// Records between two looks at the switch that stops a reader.
const STOP_INTERVAL: u64 = 1024;

/// Reads records as rows.
pub(super) struct CsvReader {
    path: PathBuf,
    reader: Reader<Budgeted>,
    budget: Budget,
    names: Vec<String>,
    /// The place of the chosen column.
    column: Option<usize>,
    record: ByteRecord,
    /// Records read so far, the header aside.
    count: u64,
}

impl CsvReader {
    /// Makes a reader of an opened file, and reads the header.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a malformed header, or one without the column.
    pub(super) fn new(path: &Path, source: Source, column: Option<&Column>) -> Result<Self> {
        let budget = Budget::default();
        let is_tab_separated =
            path.file_name().is_some_and(|name| name.to_string_lossy().to_ascii_lowercase().contains(".tsv"));
        let reader = ReaderBuilder::new()
            .delimiter(if is_tab_separated { b'\t' } else { b',' })
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(Budgeted { source, budget: budget.clone() });
        let mut reader = Self {
            path: path.to_owned(),
            reader,
            budget,
            names: Vec::new(),
            column: None,
            record: ByteRecord::new(),
            count: 0,
        };
        reader.read_header()?;
        if let Some(column) = column {
            let place = reader.names.iter().position(|name| *name == column.name);
            let missing = || Error::file(path, format!("has no column '{}'", excerpt(&column.name)));
            // A file that is empty has no header, and no row that would need one.
            reader.column = if reader.names.is_empty() { None } else { Some(place.ok_or_else(missing)?) };
        }
        Ok(reader)
    }

    fn read_header(&mut self) -> Result<()> {
        let invalid = |why: String| Error::file(&self.path, format!("the header {why}"));
        self.budget.refill();
        let header = match self.reader.byte_headers() {
            Ok(header) => header.clone(),
            Err(error) => return Err(invalid(why(&error))),
        };
        if header.len() > MAX_COLUMNS {
            return Err(invalid(format!("has {} columns, the limit is {MAX_COLUMNS}", header.len())));
        }
        for name in &header {
            let name = std::str::from_utf8(name).map_err(|_| invalid("is not UTF-8".to_owned()))?;
            if name.len() > MAX_NAME_BYTES {
                return Err(invalid(format!("has a name longer than {MAX_NAME_BYTES} bytes")));
            }
            if self.names.iter().any(|known| known == name) {
                return Err(invalid(format!("names '{}' twice", excerpt(name))));
            }
            self.names.push(name.to_owned());
        }
        Ok(())
    }

    /// Reads the next record and returns whether there is one.
    fn advance(&mut self) -> Result<bool> {
        if self.count.is_multiple_of(STOP_INTERVAL) {
            self.reader.get_ref().source.check_stop()?;
        }
        self.budget.refill();
        let byte = self.reader.position().byte();
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => self.count += 1,
            Ok(false) => return Ok(false),
            Err(error) => {
                let (path, row) = (&self.path, self.count + 1);
                return Err(match error.into_kind() {
                    ErrorKind::Io(error) => Error::io_at_row(path, row, Some(byte), error),
                    ErrorKind::UnequalLengths { expected_len, len, .. } => {
                        let why = format!("has {len} fields, the header has {expected_len}");
                        Error::row(path, row, Some(byte), why)
                    }
                    _ => Error::row(path, row, Some(byte), "is malformed"),
                });
            }
        }
        if self.record.as_slice().len() > MAX_ROW_BYTES {
            return Err(self.invalid(format!("is longer than {MAX_ROW_BYTES} bytes")));
        }
        Ok(true)
    }

    fn invalid(&self, why: String) -> Error {
        let byte = self.record.position().map(::csv::Position::byte);
        Error::row(&self.path, self.count, byte, why)
    }

    /// Returns a field of the present record.
    fn field(&self, place: usize) -> Result<&str> {
        let name = self.names.get(place).map(String::as_str).unwrap_or_default();
        std::str::from_utf8(self.record.get(place).unwrap_or_default())
            .map_err(|_| self.invalid(format!("column '{}' is not UTF-8", excerpt(name))))
    }
}

/// Returns what is wrong, without the library's own place.
fn why(error: &::csv::Error) -> String {
    match error.kind() {
        ErrorKind::Io(error) => error.to_string(),
        _ => "is malformed".to_owned(),
    }
}

impl RowReader for CsvReader {
    fn skip(&mut self, rows: u64) -> Result<u64> {
        for skipped in 0..rows {
            if !self.advance()? {
                return Ok(skipped);
            }
        }
        Ok(rows)
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        let Some(place) = self.column else { return Ok(None) };
        if !self.advance()? {
            return Ok(None);
        }
        Ok(Some(Row::Text(self.field(place)?.to_owned())))
    }

    fn next_preview(&mut self) -> Result<Option<Map<String, Value>>> {
        if !self.advance()? {
            return Ok(None);
        }
        let mut row = Map::new();
        for (place, name) in self.names.iter().enumerate() {
            row.insert(name.clone(), Value::String(cut_text(self.field(place)?)));
        }
        Ok(Some(row))
    }

    fn bytes_read(&self) -> u64 {
        self.reader.get_ref().source.bytes_read()
    }

    fn finish(self: Box<Self>) -> Result<Option<Fingerprint>> {
        let Self { path, reader, .. } = *self;
        reader.into_inner().source.finish().map_err(|error| Error::io(&path, error))
    }
}

/// Returns the columns that the header names.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::Io`].
pub(super) fn columns(path: &Path, source: Source) -> Result<Vec<Column>> {
    let reader = CsvReader::new(path, source, None)?;
    Ok(reader.names.into_iter().map(|name| Column::new(name, Kind::Text)).collect())
}

/// The bytes that may still be read for the present record. The `csv` crate has no limit of its own: a quote that is
/// never closed would take the whole file into memory.
#[derive(Debug, Clone, Default)]
struct Budget(Arc<AtomicU64>);

impl Budget {
    /// Allows one more record.
    fn refill(&self) {
        self.0.store((MAX_ROW_BYTES + 2 * BUFFER_BYTES) as u64, Relaxed);
    }
}

/// A source that fails when the budget is used up.
struct Budgeted {
    source: Source,
    budget: Budget,
}

impl Read for Budgeted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.source.read(buffer)?;
        let left = self.budget.0.load(Relaxed).checked_sub(bytes as u64).ok_or_else(|| {
            io::Error::other(format!("is longer than {MAX_ROW_BYTES} bytes; perhaps a quote is not closed"))
        })?;
        self.budget.0.store(left, Relaxed);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Stop;

    fn rows_of(name: &str, content: &[u8], column: &str) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let column = Column::new(column, Kind::Text);
        let source = Source::open(&path, false, Stop::default())?;
        let mut reader = CsvReader::new(&path, source, Some(&column))?;
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row()? {
            let Row::Text(text) = row else { panic!("{row:?}") };
            rows.push(text);
        }
        Ok(rows)
    }

    #[test]
    fn quotes_ends_of_lines_and_marks() {
        let check = |name: &str, content: &str, expected: &[&str]| {
            assert_eq!(rows_of(name, content.as_bytes(), "b").unwrap(), expected, "{content:?}");
        };
        check("x.csv", "a,b\n1,2\n", &["2"]);
        check("x.csv", "\u{feff}b,a\r\n\"1,\"\"2\"\"\nnext\",x\r\nü,y", &["1,\"2\"\nnext", "ü"]);
        check("x.csv", "b\n\n1\n\n2\n", &["1", "2"]);
        check("x.csv", "a,b\n", &[]);
        check("x.csv", "", &[]);
        check("x.tsv", "a\tb\n1,5\t2,5\n", &["2,5"]);
    }

    #[test]
    fn malformed_records_are_named() {
        let check = |content: &[u8], expected: &str| {
            let error = rows_of("x.csv", content, "b").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(b"a,b\n1,2\n3\n", "x.csv, row 2 (byte 8): has 1 fields, the header has 2");
        check(b"a,b\n1,2,3\n", "row 1 (byte 4): has 3 fields, the header has 2");
        check(b"a,b\nx,\xff\n", "row 1 (byte 4): column 'b' is not UTF-8");
        check(b"a,c\n", "has no column 'b'");
        check(b"b,b\n", "the header names 'b' twice");
        check(b"\xff,b\n", "the header is not UTF-8");
        check(format!("{}b", "x,".repeat(MAX_COLUMNS)).as_bytes(), "the header has 10001 columns");
    }

    #[test]
    fn a_quote_that_is_not_closed_takes_no_more_than_a_row() {
        let open = [&b"a,b\n1,2\n3,\""[..], &vec![b'x'; 40 << 20]].concat();
        let error = rows_of("x.csv", &open, "b").unwrap_err().to_string();
        assert!(error.contains("row 2 (byte 8): is longer than 16777216 bytes; perhaps a quote"), "{error}");
        let long = [&b"b\n"[..], &vec![b'x'; MAX_ROW_BYTES + 1], b"\n"].concat();
        let error = rows_of("x.csv", &long, "b").unwrap_err().to_string();
        assert!(error.contains("row 1 (byte 2): is longer than 16777216 bytes"), "{error}");
        let fields = [&b"a,b\n"[..], &vec![b','; 10 << 20], b"\n"].concat();
        let error = rows_of("x.csv", &fields, "b").unwrap_err().to_string();
        assert!(error.contains("10485761 fields"), "{error}");
        let header = vec![b'x'; 40 << 20];
        assert!(rows_of("x.csv", &header, "b").unwrap_err().to_string().contains("the header is longer"));
    }
}
