//! Lines of a file, each bounded, with its place for messages.

use std::{
    io::{BufRead as _, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    limits::MAX_ROW_BYTES,
    source::Source,
};

/// Lines between two looks at the switch that stops a reader.
const STOP_INTERVAL: u64 = 1024;

/// Reads lines. Ends of lines are LF or CRLF; the last line may have none.
pub(super) struct LineReader {
    path: PathBuf,
    source: Source,
    line: Vec<u8>,
    /// Lines read so far.
    count: u64,
    /// The byte at which the next line begins.
    next_byte: u64,
    /// The byte at which the present line begins.
    byte: u64,
}

impl LineReader {
    /// Makes a reader of an opened file.
    pub(super) fn new(path: &Path, source: Source) -> Self {
        Self { path: path.to_owned(), source, line: Vec::new(), count: 0, next_byte: 0, byte: 0 }
    }

    /// Reads the next line and returns whether there is one. [`Self::line`] returns it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a line that is too long, [`Error::Io`], [`Error::Cancelled`].
    pub(super) fn advance(&mut self) -> Result<bool> {
        if self.count.is_multiple_of(STOP_INTERVAL) {
            self.source.check_stop()?;
        }
        self.byte = self.next_byte;
        self.line.clear();
        // One more than the limit: an end of line does not count.
        let mut limited = self.source.by_ref().take(MAX_ROW_BYTES as u64 + 2);
        let read = limited.read_until(b'\n', &mut self.line);
        let bytes =
            read.map_err(|error| Error::io_at_row(&self.path, self.count + 1, Some(self.byte), error))?;
        if bytes == 0 {
            return Ok(false);
        }
        self.count += 1;
        self.next_byte += bytes as u64;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
        }
        if self.line.len() > MAX_ROW_BYTES {
            return Err(self.invalid(format!("is longer than {MAX_ROW_BYTES} bytes")));
        }
        Ok(true)
    }

    /// Returns the present line, without its end.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }

    /// Returns the present line as text.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is not UTF-8.
    pub(super) fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.line)
            .map_err(|error| self.invalid_at(error.valid_up_to(), "is not UTF-8".to_owned()))
    }

    /// Makes an error of the present line.
    pub(super) fn invalid(&self, why: String) -> Error {
        self.invalid_at(0, why)
    }

    /// Makes an error of a byte within the present line.
    pub(super) fn invalid_at(&self, within: usize, why: String) -> Error {
        Error::row(&self.path, self.count, Some(self.byte + within as u64), why)
    }

    /// Returns the bytes of the file that were read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.source.bytes_read()
    }

    /// Returns the file, and what is left of it.
    pub(super) fn into_parts(self) -> (PathBuf, Source) {
        (self.path, self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Stop;

    fn lines(content: &[u8]) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, content).unwrap();
        let mut reader = LineReader::new(&path, Source::open(&path, false, Stop::default())?);
        let mut lines = Vec::new();
        while reader.advance()? {
            lines.push(reader.text()?.to_owned());
        }
        Ok(lines)
    }

    #[test]
    fn ends_of_lines_are_lf_or_crlf_or_missing() {
        let check = |content: &str, expected: &[&str]| {
            assert_eq!(lines(content.as_bytes()).unwrap(), expected, "{content:?}");
        };
        check("", &[]);
        check("a", &["a"]);
        check("a\n", &["a"]);
        check("a\r\nb\r\n", &["a", "b"]);
        check("a\n\nb", &["a", "", "b"]);
        check("\n", &[""]);
        check("\u{feff}a\rb\n", &["a\rb"]);
    }

    #[test]
    fn faults_are_named_with_row_and_byte() {
        let error = lines(b"ok\nfine\nnot \xff UTF-8\n").unwrap_err().to_string();
        assert!(error.ends_with("a.txt, row 3 (byte 12): is not UTF-8"), "{error}");
        let longest = vec![b'x'; MAX_ROW_BYTES];
        assert_eq!(lines(&longest).unwrap().len(), 1);
        assert_eq!(lines(&[&longest[..], b"\r\n"].concat()).unwrap().len(), 1);
        for end in ["", "\n", "xxxx"] {
            let long = [&longest[..], b"x", end.as_bytes()].concat();
            let error = lines(&[b"a\n", &long[..]].concat()).unwrap_err().to_string();
            assert!(error.ends_with("row 2 (byte 2): is longer than 16777216 bytes"), "{error}");
        }
    }

    #[test]
    fn a_stopped_reader_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "a\n").unwrap();
        let stop = Stop::default();
        let mut reader = LineReader::new(&path, Source::open(&path, false, stop.clone()).unwrap());
        stop.stop();
        assert!(matches!(reader.advance(), Err(Error::Cancelled)));
    }
}
