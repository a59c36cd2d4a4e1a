//! JSON lines: each line that is not blank is an object. Of a row only the chosen column is kept in memory.

use std::path::Path;

use serde::de::DeserializeSeed;
use serde_json::{Deserializer, Map, Value};

use super::{
    RowReader,
    json::{Cut, FieldOf, Shape, Shapes},
    lines::LineReader,
};
use crate::{
    error::{Error, Result, excerpt},
    limits::{MAX_COLUMNS, MAX_NAME_BYTES, SAMPLED_ROWS},
    row::{Column, Kind, Row},
    source::{Fingerprint, Source},
};

/// Reads objects, one a line.
pub(super) struct JsonlReader {
    lines: LineReader,
    column: Option<Column>,
}

impl JsonlReader {
    /// Makes a reader of an opened file.
    pub(super) fn new(path: &Path, source: Source, column: Option<Column>) -> Self {
        Self { lines: LineReader::new(path, source), column }
    }

    /// Reads the next line that is not blank and returns whether there is one.
    fn advance(&mut self) -> Result<bool> {
        while self.lines.advance()? {
            if !self.lines.line().trim_ascii().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Parses the present line.
    fn parse<'de, S: DeserializeSeed<'de>>(&'de self, seed: S) -> Result<S::Value> {
        // Checked first: an invalid byte in a column that is not read is an error too.
        let mut json = Deserializer::from_str(self.lines.text()?);
        let value = seed.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
        value.map_err(|error| {
            // The line is one line, so that the library's own line number says nothing.
            let place = format!(" at line {} column {}", error.line(), error.column());
            let why = error.to_string();
            let why = why.strip_suffix(&place).unwrap_or(&why);
            let hint = match self.lines.line().trim_ascii_start().first() {
                Some(b'[') => "; a file of JSON lines has one object a line, not an array",
                _ => "",
            };
            self.lines.invalid_at(error.column().saturating_sub(1), format!("{}{hint}", excerpt(why)))
        })
    }
}

impl RowReader for JsonlReader {
    fn skip(&mut self, rows: u64) -> Result<u64> {
        for skipped in 0..rows {
            if !self.advance()? {
                return Ok(skipped);
            }
        }
        Ok(rows)
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        if !self.advance()? {
            return Ok(None);
        }
        let Some(column) = &self.column else { return Ok(None) };
        let name = column.name.as_str();
        let row = match column.kind {
            Kind::Text => self.parse(FieldOf::<String>::new(name))?.map(Row::Text),
            Kind::Messages => self.parse(FieldOf::new(name))?.map(Row::Messages),
            Kind::TokenIds => self.parse(FieldOf::new(name))?.map(Row::TokenIds),
            Kind::Other => None,
        };
        Ok(row.or_else(|| Row::empty(column.kind)))
    }

    fn next_preview(&mut self) -> Result<Option<Map<String, Value>>> {
        if !self.advance()? {
            return Ok(None);
        }
        match self.parse(Cut::default())? {
            Value::Object(row) => Ok(Some(row)),
            _ => Err(self.lines.invalid("is not an object".to_owned())),
        }
    }

    fn bytes_read(&self) -> u64 {
        self.lines.bytes_read()
    }

    fn finish(self: Box<Self>) -> Result<Option<Fingerprint>> {
        let (path, source) = self.lines.into_parts();
        source.finish().map_err(|error| Error::io(&path, error))
    }
}

/// Returns the columns of the first rows, in the order in which they appear.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::Io`].
pub(super) fn columns(path: &Path, source: Source) -> Result<Vec<Column>> {
    let mut reader = JsonlReader::new(path, source, None);
    let mut found: Vec<(String, Shape)> = Vec::new();
    for _ in 0..SAMPLED_ROWS {
        if !reader.advance()? {
            break;
        }
        for (name, shape) in reader.parse(Shapes)? {
            if name.len() > MAX_NAME_BYTES {
                let why = format!("has a column whose name is longer than {MAX_NAME_BYTES} bytes");
                return Err(reader.lines.invalid(why));
            }
            match found.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = known.with(shape),
                None => found.push((name, shape)),
            }
            if found.len() > MAX_COLUMNS {
                return Err(reader.lines.invalid(format!("there are more than {MAX_COLUMNS} columns")));
            }
        }
    }
    Ok(found.into_iter().map(|(name, shape)| Column::new(name, shape.kind())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{row::Message, source::Stop};

    fn with_file<T>(content: &str, work: impl FnOnce(&Path, Source) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, content).unwrap();
        work(&path, Source::open(&path, false, Stop::default()).unwrap())
    }

    fn rows(content: &str, name: &str, kind: Kind) -> Result<Vec<Row>> {
        with_file(content, |path, source| {
            let mut reader = JsonlReader::new(path, source, Some(Column::new(name, kind)));
            let mut rows = Vec::new();
            while let Some(row) = reader.next_row()? {
                rows.push(row);
            }
            Ok(rows)
        })
    }

    #[test]
    fn the_column_is_read_from_each_object() {
        let content = "{\"text\": \"a\\nb\", \"n\": {\"text\": 1}}\r\n\n  \n{\"n\": [1, {}]}\n{\"text\": null}\n{\"text\": \"ü\"}";
        let expected = ["a\nb", "", "", "ü"].map(|text| Row::Text(text.to_owned()));
        assert_eq!(rows(content, "text", Kind::Text).unwrap(), expected);
        let content = "{\"ids\": [0, 4294967295]}\n{\"ids\": []}\n";
        let expected = [Row::TokenIds(vec![0, u32::MAX]), Row::TokenIds(vec![])];
        assert_eq!(rows(content, "ids", Kind::TokenIds).unwrap(), expected);
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let content = r#"{"m": [{"role": "user", "content": "Hi"}, {"content": null, "role": "assistant"}]}"#;
        let expected = [Row::Messages(vec![message("user", "Hi"), message("assistant", "")])];
        assert_eq!(rows(content, "m", Kind::Messages).unwrap(), expected);
    }

    #[test]
    fn malformed_rows_are_named() {
        let check = |content: &str, kind, expected: &str| {
            let error = rows(content, "x", kind).unwrap_err().to_string();
            assert!(error.contains(expected), "{content}: {error}");
        };
        check(
            "{\"x\": \"a\"}\n{\"x\": 5}\n",
            Kind::Text,
            "row 2 (byte 17): invalid type: integer `5`, expected a string",
        );
        check("{\"x\": \"a\"\n", Kind::Text, "row 1 (byte 8): EOF while parsing an object");
        check("{} {}\n", Kind::Text, "trailing characters");
        check("[{\"x\": 1}]", Kind::Text, "one object a line, not an array");
        check("5", Kind::Text, "expected an object");
        check("{\"x\": [-1]}", Kind::TokenIds, "invalid value: integer `-1`");
        check("{\"x\": [4294967296]}", Kind::TokenIds, "invalid value: integer `4294967296`");
        check("{\"x\": [1.5]}", Kind::TokenIds, "floating point");
        check("{\"x\": [null]}", Kind::TokenIds, "null");
        check("{\"x\": [{\"content\": \"\"}]}", Kind::Messages, "missing field `role`");
        let deep = format!("{{\"x\": {}", "[".repeat(10_000));
        check(&deep, Kind::Text, "invalid type: sequence");
        check(&deep, Kind::TokenIds, "invalid type: sequence");
        check(&format!("{{\"y\": {}", "[".repeat(10_000)), Kind::Text, "EOF while parsing");
    }

    #[test]
    fn columns_are_told_by_the_first_rows() {
        let content = r#"{"id": 1, "text": null, "ids": [], "m": [], "mixed": "a", "none": null, "big": [1, 5000000000]}
            {"text": "a", "ids": [5], "m": [{"role": "user", "content": "x"}], "mixed": 5, "late": [[1]]}"#;
        let found = with_file(content, columns).unwrap();
        let found: Vec<_> = found.iter().map(|column| (column.name.as_str(), column.kind)).collect();
        let expected = [
            ("id", Kind::Other),
            ("text", Kind::Text),
            ("ids", Kind::TokenIds),
            ("m", Kind::Messages),
            ("mixed", Kind::Other),
            ("none", Kind::Other),
            ("big", Kind::Other),
            ("late", Kind::Other),
        ];
        assert_eq!(found, expected);
        assert!(with_file("", columns).unwrap().is_empty());
        let long = format!("{{\"{}\": 1}}", "x".repeat(MAX_NAME_BYTES + 1));
        assert!(with_file(&long, columns).is_err());
    }

    #[test]
    fn previews_are_cut() {
        let content = format!(
            r#"{{"text": "{}", "ids": [{}0], "deep": {}1{}, "n": -1.5, "s": {{"a": null}}}}"#,
            "é".repeat(3000),
            "1,".repeat(2000),
            "[".repeat(100),
            "]".repeat(100)
        );
        let row = with_file(&content, |path, source| JsonlReader::new(path, source, None).next_preview());
        let row = row.unwrap().unwrap();
        assert_eq!(row["text"].as_str().unwrap().chars().count(), 2000);
        assert_eq!(row["ids"].as_array().unwrap().len(), 1000);
        assert!(row["deep"].to_string().starts_with("[[[[[[[[\"…\"]"), "{}", row["deep"]);
        assert_eq!((&row["n"], &row["s"]), (&serde_json::json!(-1.5), &serde_json::json!({"a": null})));
        assert!(with_file("[]", |path, source| JsonlReader::new(path, source, None).next_preview()).is_err());
    }
}
