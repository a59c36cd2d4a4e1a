//! Parquet: rows of one column, or previews of all.
//!
//! The `parquet` crate decodes; it trusts more than a file of a stranger deserves. So the footer is checked before the
//! crate reads it ([`footer`]), pages are decompressed and bounded here ([`pages`]), and a panic of the crate is an error
//! of the file.

mod footer;
mod pages;
mod preview;
mod typed;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use ::parquet::errors::{ParquetError, Result as ParquetResult};
use serde_json::{Map, Value};

use self::{
    footer::ParquetFile,
    preview::PreviewColumn,
    typed::{ColumnRows, Layout},
};
use super::RowReader;
use crate::{
    error::{Error, Result, excerpt},
    row::{Column, Kind, Row},
    source::{Fingerprint, Stop},
};

/// Rows between two looks at the switch that stops a reader.
const STOP_INTERVAL: u64 = 64;

/// Reads the rows of one file, row group by row group.
pub(super) struct ParquetReader {
    file: Arc<ParquetFile>,
    wanted: Wanted,
    stop: Stop,
    /// The row group that is opened next.
    next_group: usize,
    present: Option<Group>,
    /// Rows read or skipped so far.
    row: u64,
}

/// The columns to read.
enum Wanted {
    One(Layout),
    All,
}

/// The readers of one row group.
struct Group {
    columns: Columns,
    rows_left: u64,
}

enum Columns {
    One(Box<ColumnRows>),
    All(Vec<(String, PreviewColumn)>),
}

impl ParquetReader {
    /// Opens a file to read one column, or, without one, to preview all.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a damaged file, or one without the column; [`Error::Io`].
    pub(super) fn open(path: &Path, column: Option<&Column>, stop: Stop) -> Result<Self> {
        let file = Arc::new(ParquetFile::open(path)?);
        let wanted = match column {
            Some(column) => Wanted::One(layout_of(&file, column)?),
            None => Wanted::All,
        };
        Ok(Self { file, wanted, stop, next_group: 0, present: None, row: 0 })
    }

    /// Returns the rows that the footer declares.
    pub(super) fn row_count(&self) -> u64 {
        self.file.row_count()
    }

    /// Opens the next row group; false after the last.
    fn open_group(&mut self) -> Result<bool> {
        let (file, index) = (&self.file, self.next_group);
        let Some(rows_left) = file.group_rows(index) else { return Ok(false) };
        let wanted = &self.wanted;
        let columns = self.guarded(|| {
            Ok(match wanted {
                Wanted::One(layout) => Columns::One(Box::new(ColumnRows::open(file, index, layout)?)),
                Wanted::All => Columns::All(preview::open(file, index)),
            })
        })?;
        self.present = Some(Group { columns, rows_left });
        self.next_group += 1;
        Ok(true)
    }

    /// Opens row groups until one has rows; false after the last row.
    fn find_row(&mut self) -> Result<bool> {
        if self.row.is_multiple_of(STOP_INTERVAL) {
            self.stop.check()?;
        }
        while self.present.as_ref().is_none_or(|group| group.rows_left == 0) {
            self.present = None;
            if !self.open_group()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs the library's code. Its panics and errors become errors of the next row.
    fn guarded<T>(&self, work: impl FnOnce() -> ParquetResult<T>) -> Result<T> {
        guarded(work).map_err(|why| Error::row(self.file.path(), self.row + 1, None, why))
    }
}

impl RowReader for ParquetReader {
    fn skip(&mut self, rows: u64) -> Result<u64> {
        let mut left = rows;
        while left > 0 {
            if self.present.as_ref().is_none_or(|group| group.rows_left == 0) {
                self.present = None;
                // A group that is skipped whole is not opened.
                let Some(all) = self.file.group_rows(self.next_group) else { break };
                if all <= left {
                    self.next_group += 1;
                    (left, self.row) = (left - all, self.row + all);
                    continue;
                }
            }
            if !self.find_row()? {
                break;
            }
            let Some(mut group) = self.present.take() else { break };
            let step = left.min(group.rows_left).min(STOP_INTERVAL);
            self.guarded(|| match &mut group.columns {
                Columns::One(column) => column.skip(step),
                Columns::All(columns) => {
                    for (_, column) in columns {
                        column.skip(step);
                    }
                    Ok(())
                }
            })?;
            group.rows_left -= step;
            (left, self.row) = (left - step, self.row + step);
            self.present = Some(group);
            self.stop.check()?;
        }
        Ok(rows - left)
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        if !self.find_row()? {
            return Ok(None);
        }
        // Taken out: after an error the group is not read further.
        let Some(mut group) = self.present.take() else { return Ok(None) };
        let Columns::One(column) = &mut group.columns else { return Ok(None) };
        let row = self.guarded(|| column.next())?;
        group.rows_left -= 1;
        self.row += 1;
        self.present = Some(group);
        Ok(Some(row))
    }

    fn next_preview(&mut self) -> Result<Option<Map<String, Value>>> {
        if !self.find_row()? {
            return Ok(None);
        }
        let Some(mut group) = self.present.take() else { return Ok(None) };
        let Columns::All(columns) = &mut group.columns else { return Ok(None) };
        let row = columns.iter_mut().map(|(name, column)| (name.clone(), column.next())).collect();
        group.rows_left -= 1;
        self.row += 1;
        self.present = Some(group);
        Ok(Some(row))
    }

    fn bytes_read(&self) -> u64 {
        0
    }

    fn finish(self: Box<Self>) -> Result<Option<Fingerprint>> {
        Ok(None)
    }
}

/// Returns the columns of a file, from its schema.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::Io`].
pub(super) fn columns(path: &Path) -> Result<Vec<Column>> {
    let file = ParquetFile::open(path)?;
    let schema = file.schema();
    let columns = schema.root_schema().get_fields().iter().enumerate().map(|(root, field)| {
        let kind = Layout::of(schema, root).map_or(Kind::Other, |layout| layout.kind());
        Column::new(field.name(), kind)
    });
    Ok(columns.collect())
}

fn layout_of(file: &ParquetFile, column: &Column) -> Result<Layout> {
    let schema = file.schema();
    let name = excerpt(&column.name);
    let root = schema.root_schema().get_fields().iter().position(|field| field.name() == column.name);
    let root = root.ok_or_else(|| Error::file(file.path(), format!("has no column '{name}'")))?;
    let layout = Layout::of(schema, root).filter(|layout| layout.kind() == column.kind);
    layout.ok_or_else(|| Error::file(file.path(), format!("column '{name}' has no {}", column.kind)))
}

/// Runs the library's code, and turns its panics and errors into sentences.
fn guarded<T>(work: impl FnOnce() -> ParquetResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| why(&error)),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            Err(format!("is damaged: the reader gave up ({})", excerpt(words)))
        }
    }
}

/// Returns the library's words for an error, shortened: they may hold the data.
fn why(error: &ParquetError) -> String {
    excerpt(&match error {
        ParquetError::General(why) | ParquetError::NYI(why) | ParquetError::EOF(why) => why.clone(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests;
