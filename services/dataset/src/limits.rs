//! The sizes and counts beyond which a dataset is refused or cut.

/// The largest row, in bytes: a line, a CSV record, or the value of a Parquet column.
pub const MAX_ROW_BYTES: usize = 16 << 20;

/// The most files of a dataset.
pub const MAX_FILES: usize = 10_000;
/// The most entries of folders that are looked at for one path.
pub const MAX_VISITED: usize = 100_000;

/// The most columns of a dataset.
pub const MAX_COLUMNS: usize = 10_000;
/// The longest name of a column, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// The rows by which the kinds of columns are found.
pub const SAMPLED_ROWS: usize = 100;

/// The longest text of a preview, in characters.
pub const PREVIEW_CHARS: usize = 2000;
/// The most elements of a list or an object in a preview.
pub const PREVIEW_ELEMENTS: usize = 1000;
/// The deepest nesting of a preview.
pub const PREVIEW_DEPTH: usize = 8;

/// A compressed file may hold this many times its size. Text compresses to a tenth, rarely to a hundredth.
pub const MAX_EXPANSION: u64 = 1000;
/// A compressed file may always hold this many bytes.
pub const MIN_EXPANDED_BYTES: u64 = 64 << 20;

/// The largest footer of a Parquet file, in bytes.
pub const MAX_FOOTER_BYTES: usize = 16 << 20;
/// The deepest nesting of a Parquet schema.
pub const MAX_SCHEMA_DEPTH: usize = 32;
/// The largest page of a Parquet file, compressed or not, in bytes. Writers aim at 1 MiB, and some close a page only
/// after a thousand rows.
pub const MAX_PAGE_BYTES: usize = 256 << 20;
/// The most values in a page of a Parquet column of lists, and in a dictionary. One row of such a column may hold twice
/// as many while it is read.
pub const MAX_PAGE_VALUES: usize = 4 << 20;
