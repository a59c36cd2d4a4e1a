//! The scan of a dataset that is registered: its columns, and the rows, size and hash of each file.

use std::path::{Path, PathBuf};

use crate::{
    dataset::DataFile,
    error::{Error, Result, excerpt},
    formats::{self, Format, Opened},
    limits::MAX_FILES,
    row::{Column, choose_column},
    source::{Fingerprint, Stop},
};

/// Rows between two reports of progress.
const REPORT_INTERVAL: u64 = 256;

/// The facts of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The format of all files.
    pub format: Format,
    /// The files, in their order.
    pub files: Vec<ScannedFile>,
    /// The columns of the first file that has any.
    pub columns: Vec<Column>,
    /// The column that is read.
    pub column: Column,
}

/// The facts of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Its number of rows.
    pub rows: u64,
}

impl Scan {
    /// Returns the number of rows.
    pub fn row_count(&self) -> u64 {
        self.files.iter().map(|file| file.rows).fold(0, u64::saturating_add)
    }

    /// Returns the files as a [`Dataset`](crate::Dataset) takes them.
    pub fn data_files(&self) -> Vec<DataFile> {
        let file =
            |file: &ScannedFile| DataFile { path: file.path.clone(), size: file.size, rows: file.rows };
        self.files.iter().map(file).collect()
    }
}

/// Returns the format of the files, their columns, and the one called `asked`; it is found when empty. Only the beginning
/// of the files is read.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::NoRows`] when no file has a column, [`Error::Column`], [`Error::Io`].
pub fn find_column(files: &[PathBuf], asked: &str) -> Result<(Format, Vec<Column>, Column)> {
    if files.len() > MAX_FILES {
        let why = format!("has {} files, the limit is {MAX_FILES}", files.len());
        return Err(Error::file(Path::new("dataset"), why));
    }
    let format = Format::of_files(files)?;
    let columns = first_columns(format, files)?;
    let column = choose_column(&columns, asked)?;
    Ok((format, columns, column))
}

/// Reads all files once: counts and checks the rows, and hashes the bytes. Of Parquet the footer is read instead of the
/// rows. `asked` is the name of the column; it is found when empty. `progress` gets the bytes that were read so far, and
/// returns whether to go on.
///
/// # Errors
///
/// [`Error::Invalid`] for the first row that is malformed, [`Error::NoRows`], [`Error::Column`], [`Error::Io`];
/// [`Error::Cancelled`] when `progress` says so.
pub fn scan(files: &[PathBuf], asked: &str, progress: &mut dyn FnMut(u64) -> bool) -> Result<Scan> {
    let (format, columns, column) = find_column(files, asked)?;
    let mut found = Vec::new();
    let mut bytes_before = 0_u64;
    for path in files {
        let mut report = |bytes: u64| progress(bytes_before.saturating_add(bytes));
        let (rows, Fingerprint { size, sha256 }) = match format {
            Format::Parquet => formats::scan_parquet(path, &column, &mut report)?,
            _ => scan_rows(format, path, &column, &mut report)?,
        };
        bytes_before += size;
        found.push(ScannedFile { path: path.clone(), size, sha256, rows });
    }
    if found.iter().all(|file| file.rows == 0) {
        return Err(no_rows(files));
    }
    Ok(Scan { format, files: found, columns, column })
}

fn first_columns(format: Format, files: &[PathBuf]) -> Result<Vec<Column>> {
    for path in files {
        let columns = formats::columns(format, path, Stop::default())?;
        if !columns.is_empty() {
            return Ok(columns);
        }
    }
    Err(no_rows(files))
}

fn no_rows(files: &[PathBuf]) -> Error {
    let file = files.first().map(|path| excerpt(&path.to_string_lossy())).unwrap_or_default();
    Error::NoRows { file }
}

/// Reads all rows of a file.
fn scan_rows(
    format: Format,
    path: &Path,
    column: &Column,
    report: &mut dyn FnMut(u64) -> bool,
) -> Result<(u64, Fingerprint)> {
    let mut reader = formats::open(format, path, Some(column), Opened::Hashed, Stop::default())?;
    let mut rows = 0_u64;
    while reader.next_row()?.is_some() {
        rows += 1;
        if rows.is_multiple_of(REPORT_INTERVAL) && !report(reader.bytes_read()) {
            return Err(Error::Cancelled);
        }
    }
    let unhashed = || Error::file(path, "was not hashed");
    let fingerprint = reader.finish()?.ok_or_else(unhashed)?;
    if !report(fingerprint.size) {
        return Err(Error::Cancelled);
    }
    Ok((rows, fingerprint))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::row::Kind;

    fn scanned(files: &[(&str, &str)], asked: &str) -> Result<Scan> {
        let folder = tempfile::tempdir().unwrap();
        let write = |(name, content): &(&str, &str)| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let files: Vec<_> = files.iter().map(write).collect();
        scan(&files, asked, &mut |_| true)
    }

    #[test]
    fn rows_are_counted_and_files_hashed() {
        let text = "{\"text\": \"a\", \"id\": \"x\"}\n{\"text\": \"b\"}\n";
        let found = scanned(&[("a.jsonl", ""), ("b.jsonl", text), ("c.jsonl", "{}")], "").unwrap();
        assert_eq!((found.format, found.row_count()), (Format::Jsonl, 3));
        assert_eq!(found.column, Column::new("text", Kind::Text));
        assert_eq!(found.columns.len(), 2);
        let rows: Vec<_> = found.files.iter().map(|file| file.rows).collect();
        assert_eq!(rows, [0, 2, 1]);
        let file = &found.files[1];
        assert_eq!((file.size, file.sha256.clone()), (text.len() as u64, hex::encode(Sha256::digest(text))));
        let found = scanned(&[("a.csv", "id,body\n1,x\n2,y\n")], "body").unwrap();
        assert_eq!((found.row_count(), found.column.name.as_str()), (2, "body"));
        assert_eq!(scanned(&[("a.txt", "one\n\nthree")], "").unwrap().row_count(), 3);
    }

    #[test]
    fn datasets_without_rows_and_bad_rows_are_refused() {
        let check = |files: &[(&str, &str)], asked: &str, expected: &str| {
            let error = scanned(files, asked).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&[("a.jsonl", "")], "", "a.jsonl: has no rows");
        check(&[("a.jsonl", "\n\n")], "", "has no rows");
        check(&[("a.txt", "")], "", "has no rows");
        check(&[("a.csv", "text\n")], "", "has no rows");
        check(&[("a.csv", "")], "", "has no rows");
        check(&[("a.jsonl", "{\"text\": \"a\"}\n{\"text\": ")], "", "a.jsonl, row 2");
        let late = format!("{}{{\"text\": 5}}\n", "{\"text\": \"a\"}\n".repeat(200));
        check(&[("a.jsonl", &late)], "", "a.jsonl, row 201");
        check(
            &[("a.jsonl", "{\"text\": \"a\"}")],
            "body",
            "there is no column 'body'; the columns are: text (text)",
        );
        check(&[("a.csv", "text\nx\n"), ("b.csv", "body\nx\n")], "", "b.csv: has no column 'text'");
        check(&[("a.csv", ""), ("b.jsonl", "")], "", "is JSON lines, but the first file is CSV");
        assert!(scan(&[], "", &mut |_| true).is_err());
    }

    #[test]
    fn progress_comes_and_can_stop_the_scan() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "line\n".repeat(10_000)).unwrap();
        let mut seen = Vec::new();
        scan(std::slice::from_ref(&path), "", &mut |bytes| {
            seen.push(bytes);
            true
        })
        .unwrap();
        assert_eq!(seen.last(), Some(&50_000));
        assert!(seen.is_sorted());
        let stopped = scan(&[path], "", &mut |_| false);
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
