//! Plain text: each line is a row, empty lines included, as in Hugging Face's own loader.

use std::path::Path;

use serde_json::{Map, Value};

use super::{RowReader, json::cut_text, lines::LineReader};
use crate::{
    error::{Error, Result},
    row::Row,
    source::{Fingerprint, Source},
};

/// The name of the only column.
pub(super) const COLUMN: &str = "text";

/// Reads lines as rows.
pub(super) struct TextReader(LineReader);

impl TextReader {
    /// Makes a reader of an opened file.
    pub(super) fn new(path: &Path, source: Source) -> Self {
        Self(LineReader::new(path, source))
    }
}

impl RowReader for TextReader {
    fn skip(&mut self, rows: u64) -> Result<u64> {
        for skipped in 0..rows {
            if !self.0.advance()? {
                return Ok(skipped);
            }
        }
        Ok(rows)
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        if !self.0.advance()? {
            return Ok(None);
        }
        Ok(Some(Row::Text(self.0.text()?.to_owned())))
    }

    fn next_preview(&mut self) -> Result<Option<Map<String, Value>>> {
        if !self.0.advance()? {
            return Ok(None);
        }
        let text = Value::String(cut_text(self.0.text()?));
        Ok(Some(Map::from_iter([(COLUMN.to_owned(), text)])))
    }

    fn bytes_read(&self) -> u64 {
        self.0.bytes_read()
    }

    fn finish(self: Box<Self>) -> Result<Option<Fingerprint>> {
        let (path, source) = self.0.into_parts();
        source.finish().map_err(|error| Error::io(&path, error))
    }
}
