//! The rows of a registered dataset: from any row on, every N-th of them, over all its files.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    formats::{Format, Opened, RowReader, open},
    row::{Column, Row},
    source::{Stop, open_regular},
};

/// A registered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its number of rows.
    pub rows: u64,
}

/// A registered dataset.
#[derive(Debug, Clone)]
pub struct Dataset {
    format: Format,
    files: Vec<DataFile>,
    stop: Stop,
}

/// The rows to read: `offset`, `offset + stride`, `offset + 2 * stride`, … A shard I of N has the offset I and the
/// stride N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// The first row, counted from 0 over all files.
    pub offset: u64,
    /// The distance to the next row; 0 counts as 1.
    pub stride: u64,
}

impl Default for Selection {
    fn default() -> Self {
        Self { offset: 0, stride: 1 }
    }
}

impl Dataset {
    /// Makes a dataset of files in their order. Nothing is opened yet.
    pub fn new(format: Format, files: Vec<DataFile>) -> Self {
        Self { format, files, stop: Stop::default() }
    }

    /// Sets the switch that stops all readers of this dataset.
    #[must_use]
    pub fn with_stop(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }

    /// Returns the number of rows.
    pub fn row_count(&self) -> u64 {
        self.files.iter().map(|file| file.rows).fold(0, u64::saturating_add)
    }

    /// Reads one column's values of the selected rows, each with the row's number. At most one row is in memory, and of
    /// Parquet some pages. The iterator ends with the first error.
    pub fn rows(&self, column: &Column, selection: Selection) -> Rows {
        Rows {
            walk: Walk::new(self.clone(), Some(column.clone())),
            next: Some(selection.offset),
            stride: selection.stride.max(1),
        }
    }

    /// Reads whole rows from `offset` on as JSON objects, cut to the limits of previews. The iterator ends with the first
    /// error.
    pub fn preview(&self, offset: u64) -> Preview {
        Preview { walk: Walk::new(self.clone(), None), next: Some(offset) }
    }
}

/// The values of one column. See [`Dataset::rows`].
pub struct Rows {
    walk: Walk,
    /// The row that is read next; `None` after the end.
    next: Option<u64>,
    stride: u64,
}

impl Iterator for Rows {
    type Item = Result<(u64, Row)>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next.take()?;
        match self.walk.read(row, |reader| reader.next_row()) {
            Ok(Some(value)) => {
                self.next = row.checked_add(self.stride);
                Some(Ok((row, value)))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// Whole rows, cut. See [`Dataset::preview`].
pub struct Preview {
    walk: Walk,
    /// The row that is read next; `None` after the end.
    next: Option<u64>,
}

impl Iterator for Preview {
    type Item = Result<Map<String, Value>>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next.take()?;
        match self.walk.read(row, |reader| reader.next_preview()) {
            Ok(Some(value)) => {
                self.next = row.checked_add(1);
                Some(Ok(value))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// A walk over the files of a dataset, forwards only.
struct Walk {
    dataset: Dataset,
    /// `None` to preview all columns.
    column: Option<Column>,
    /// The present file, and the number of its first row.
    file: usize,
    first_row: u64,
    /// The reader of the present file, and the row that it reads next.
    present: Option<(Box<dyn RowReader>, u64)>,
}

impl Walk {
    fn new(dataset: Dataset, column: Option<Column>) -> Self {
        Self { dataset, column, file: 0, first_row: 0, present: None }
    }

    /// Goes to a row and reads it; `None` after the last row.
    fn read<T>(
        &mut self,
        row: u64,
        read: impl FnOnce(&mut Box<dyn RowReader>) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let Some(file) = self.find_file(row) else { return Ok(None) };
        let (mut reader, position) = match self.present.take() {
            Some(present) => present,
            None => (self.open(&file)?, self.first_row),
        };
        let distance = row - position;
        let ended = |rows: u64| Error::Changed {
            file: file.path.display().to_string(),
            why: format!("it had {} rows, and has {rows} now", file.rows),
        };
        let skipped = if distance > 0 { reader.skip(distance)? } else { 0 };
        if skipped < distance {
            return Err(ended(position + skipped - self.first_row));
        }
        let value = read(&mut reader)?.ok_or_else(|| ended(row - self.first_row))?;
        self.present = Some((reader, row + 1));
        Ok(Some(value))
    }

    /// Goes to the file that has a row; `None` after the last row.
    fn find_file(&mut self, row: u64) -> Option<DataFile> {
        loop {
            let file = self.dataset.files.get(self.file)?;
            if row - self.first_row < file.rows {
                return Some(file.clone());
            }
            self.first_row += file.rows;
            self.file += 1;
            self.present = None;
        }
    }

    fn open(&self, file: &DataFile) -> Result<Box<dyn RowReader>> {
        let (_, size) = open_regular(&file.path)?;
        if size != file.size {
            return Err(Error::Changed {
                file: file.path.display().to_string(),
                why: format!("it had {} bytes, and has {size} now", file.size),
            });
        }
        let stop = self.dataset.stop.clone();
        open(self.dataset.format, &file.path, self.column.as_ref(), Opened::Plain, stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{row::Kind, scan::scan};

    struct Fixture {
        folder: tempfile::TempDir,
        dataset: Dataset,
        column: Column,
    }

    /// Three files with the rows 0 to 9; the second is empty.
    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for (name, rows) in [("a.jsonl", 0..4), ("b.jsonl", 4..4), ("c.jsonl", 4..10)] {
            let lines: Vec<_> = rows.map(|row| format!("{{\"text\": \"{row}\", \"n\": {row}}}\n")).collect();
            files.push(folder.path().join(name));
            std::fs::write(files.last().unwrap(), lines.concat()).unwrap();
        }
        let found = scan(&files, "", &mut |_| true).unwrap();
        let dataset = Dataset::new(found.format, found.data_files());
        Fixture { folder, dataset, column: found.column }
    }

    fn read(fixture: &Fixture, offset: u64, stride: u64) -> Vec<u64> {
        let rows = fixture.dataset.rows(&fixture.column, Selection { offset, stride });
        let rows = rows.map(|row| {
            let (number, row) = row.unwrap();
            assert_eq!(row, Row::Text(number.to_string()));
            number
        });
        rows.collect()
    }

    #[test]
    fn rows_are_selected_over_all_files() {
        let fixture = fixture();
        assert_eq!(fixture.dataset.row_count(), 10);
        assert_eq!(read(&fixture, 0, 1), (0..10).collect::<Vec<_>>());
        assert_eq!(read(&fixture, 0, 0), (0..10).collect::<Vec<_>>());
        assert_eq!(read(&fixture, 3, 1), (3..10).collect::<Vec<_>>());
        assert_eq!(read(&fixture, 1, 3), [1, 4, 7]);
        assert_eq!(read(&fixture, 2, 7), [2, 9]);
        assert_eq!(read(&fixture, 9, u64::MAX), [9]);
        assert!(read(&fixture, 10, 1).is_empty() && read(&fixture, u64::MAX, 1).is_empty());
    }

    #[test]
    fn shards_share_the_rows() {
        let fixture = fixture();
        let mut all: Vec<_> = (0..3).flat_map(|shard| read(&fixture, shard, 3)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn whole_rows_are_previewed() {
        let fixture = fixture();
        let rows: Vec<_> = fixture.dataset.preview(8).map(|row| Value::Object(row.unwrap())).collect();
        assert_eq!(
            rows,
            [serde_json::json!({"text": "8", "n": 8}), serde_json::json!({"text": "9", "n": 9})]
        );
        assert_eq!(fixture.dataset.preview(10).count(), 0);
    }

    #[test]
    fn files_that_have_changed_are_noticed() {
        let fixture = fixture();
        let error = |dataset: &Dataset| {
            let last = dataset.rows(&fixture.column, Selection::default()).last().unwrap();
            last.unwrap_err().to_string()
        };
        let path = fixture.folder.path().join("c.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{{}}\n")).unwrap();
        let (before, now) = (text.len(), text.len() + 3);
        let expected =
            format!("has changed since it was registered: it had {before} bytes, and has {now} now");
        let found = error(&fixture.dataset);
        assert!(found.ends_with(&expected), "{found}");
        // The same size, but the first row is blank.
        let (first, rest) = text.split_once('\n').unwrap();
        std::fs::write(&path, format!("{}\n{rest}", " ".repeat(first.len()))).unwrap();
        let found = error(&fixture.dataset);
        assert!(found.ends_with("it had 6 rows, and has 5 now"), "{found}");
        std::fs::remove_file(&path).unwrap();
        assert!(error(&fixture.dataset).contains("c.jsonl"));
    }

    #[test]
    fn a_stopped_dataset_reads_no_more() {
        let fixture = fixture();
        let stop = Stop::default();
        let dataset = fixture.dataset.clone().with_stop(stop.clone());
        stop.stop();
        let mut rows = dataset.rows(&fixture.column, Selection::default());
        assert!(matches!(rows.next(), Some(Err(Error::Cancelled))));
        assert!(rows.next().is_none());
        assert!(matches!(dataset.preview(0).next(), Some(Err(Error::Cancelled))));
    }

    #[test]
    fn a_column_of_another_kind_is_not_read() {
        let fixture = fixture();
        let mut rows = fixture.dataset.rows(&Column::new("n", Kind::Other), Selection::default());
        assert!(rows.next().unwrap().is_err());
    }
}
