//! The formats: one reader of rows for each. The readers share the interface [`RowReader`].

mod csv;
mod json;
mod jsonl;
mod lines;
mod parquet;
mod text;

use std::{
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    row::{Column, Kind, Row},
    source::{Fingerprint, Source, Stop, fingerprint, open_regular},
};

/// The magic bytes at the start of a Parquet file.
const PARQUET: [u8; 4] = *b"PAR1";

/// The name endings of data files, with their formats. `.gz` and `.zst` may follow, except after `.parquet`.
pub const EXTENSIONS: [(&str, Format); 7] = [
    ("parquet", Format::Parquet),
    ("jsonl", Format::Jsonl),
    ("ndjson", Format::Jsonl),
    ("json", Format::Jsonl),
    ("csv", Format::Csv),
    ("tsv", Format::Csv),
    ("txt", Format::Text),
];

/// How the files of a dataset are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a header (RFC 4180); tab-separated in files called `.tsv`.
    Csv,
    /// One text a line, empty lines included.
    Text,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// Returns the format that a file's name tells.
    pub fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let (name, is_packed) = match name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")) {
            Some(name) => (name, true),
            None => (name.as_str(), false),
        };
        let extension = name.rsplit_once('.')?.1;
        let (_, format) = EXTENSIONS.iter().find(|(known, _)| *known == extension)?;
        (*format != Self::Parquet || !is_packed).then_some(*format)
    }

    /// Returns the one format of all files: by their names, and of a Parquet file with another name by its first bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a file of an unknown format, or of another format than the first.
    pub fn of_files(files: &[PathBuf]) -> Result<Self> {
        let mut first: Option<Self> = None;
        for path in files {
            let format = match Self::of_name(path) {
                Some(format) => format,
                None if starts_as_parquet(path)? => Self::Parquet,
                None => {
                    let why = "has no known format: .jsonl, .csv, .txt and .parquet are read, also with .gz or .zst";
                    return Err(Error::file(path, why));
                }
            };
            match first {
                Some(first) if first != format => {
                    return Err(Error::file(path, format!("is {format}, but the first file is {first}")));
                }
                _ => first = Some(format),
            }
        }
        first.ok_or_else(|| Error::file(Path::new("dataset"), "has no files"))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jsonl => "JSON lines",
            Self::Csv => "CSV",
            Self::Text => "text",
            Self::Parquet => "Parquet",
        })
    }
}

fn starts_as_parquet(path: &Path) -> Result<bool> {
    let (mut file, _) = open_regular(path)?;
    let mut head = [0; 4];
    Ok(file.read_exact(&mut head).is_ok() && head == PARQUET)
}

/// Reads the rows of one file in their order.
pub(crate) trait RowReader: Send {
    /// Skips up to `rows` rows and returns how many there were.
    ///
    /// # Errors
    ///
    /// As [`Self::next_row`].
    fn skip(&mut self, rows: u64) -> Result<u64>;

    /// Returns the next row's value of the column that the reader was opened for; `None` after the last row.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the row, [`Error::Io`], [`Error::Cancelled`].
    fn next_row(&mut self) -> Result<Option<Row>>;

    /// Returns the next row with all its columns, cut to the limits of previews.
    ///
    /// # Errors
    ///
    /// As [`Self::next_row`].
    fn next_preview(&mut self) -> Result<Option<Map<String, Value>>>;

    /// Returns the bytes of the file that were read so far; 0 where that is not known.
    fn bytes_read(&self) -> u64;

    /// Reads what is left of the file, and returns its fingerprint if it was opened with [`Opened::Hashed`].
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    fn finish(self: Box<Self>) -> Result<Option<Fingerprint>>;
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// To read rows.
    Plain,
    /// To read all rows and hash the file on the way. Not for Parquet, whose rows are not read in the file's order.
    Hashed,
}

/// Opens a file to read one column, or, without one, to preview all.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::Io`].
pub(crate) fn open(
    format: Format,
    path: &Path,
    column: Option<&Column>,
    opened: Opened,
    stop: Stop,
) -> Result<Box<dyn RowReader>> {
    if column.is_some_and(|column| column.kind == Kind::Other) {
        return Err(Error::file(path, "a column of this kind is not read"));
    }
    if format == Format::Parquet {
        return Ok(Box::new(parquet::ParquetReader::open(path, column, stop)?));
    }
    let source = Source::open(path, opened == Opened::Hashed, stop)?;
    Ok(match format {
        Format::Jsonl => Box::new(jsonl::JsonlReader::new(path, source, column.cloned())),
        Format::Csv => Box::new(csv::CsvReader::new(path, source, column)?),
        Format::Text | Format::Parquet => Box::new(text::TextReader::new(path, source)),
    })
}

/// Returns the columns of a file. Of JSON lines and CSV the first rows are read; a file without rows may have none.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::Io`].
pub(crate) fn columns(format: Format, path: &Path, stop: Stop) -> Result<Vec<Column>> {
    match format {
        Format::Text => Ok(vec![Column::new(text::COLUMN, Kind::Text)]),
        Format::Parquet => parquet::columns(path),
        Format::Jsonl => jsonl::columns(path, Source::open(path, false, stop)?),
        Format::Csv => csv::columns(path, Source::open(path, false, stop)?),
    }
}

/// Returns the rows of a Parquet file and hashes it. `progress` gets the bytes so far and returns whether to go on.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::Io`]; [`Error::Cancelled`] when `progress` says so.
pub(crate) fn scan_parquet(
    path: &Path,
    column: &Column,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<(u64, Fingerprint)> {
    let mut reader = parquet::ParquetReader::open(path, Some(column), Stop::default())?;
    let rows = reader.row_count();
    if rows > 0 {
        // An unreadable encoding or codec is found now, not in the midst of a job.
        reader.next_row()?;
    }
    Ok((rows, fingerprint(path, progress)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_names() {
        let check = |name: &str, expected| assert_eq!(Format::of_name(Path::new(name)), expected, "{name}");
        check("/a/train.jsonl", Some(Format::Jsonl));
        check("train.JSONL.GZ", Some(Format::Jsonl));
        check("train.json.zst", Some(Format::Jsonl));
        check("train-00000-of-00001.parquet", Some(Format::Parquet));
        check("x.parquet.gz", None);
        check("a.b.csv", Some(Format::Csv));
        check("a.txt.zst", Some(Format::Text));
        for other in ["README.md", "a", ".gz", "jsonl", "a.zip", "a.jsonl.bz2"] {
            check(other, None);
        }
    }

    #[test]
    fn all_files_have_one_format() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let (a, b) = (file("a.jsonl", ""), file("b.csv", ""));
        let (blob, odd) = (file("blob", "PAR1..."), file("odd", "text"));
        assert_eq!(Format::of_files(&[a.clone(), a.clone()]).unwrap(), Format::Jsonl);
        assert_eq!(Format::of_files(&[blob]).unwrap(), Format::Parquet);
        let mixed = Format::of_files(&[a, b]).unwrap_err().to_string();
        assert!(mixed.ends_with("b.csv: is CSV, but the first file is JSON lines"), "{mixed}");
        assert!(Format::of_files(&[odd]).unwrap_err().to_string().contains("no known format"));
        assert!(Format::of_files(&[]).is_err());
    }
}
