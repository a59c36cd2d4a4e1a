//! Reads datasets: JSON lines, CSV, plain text and Parquet, in one file or many, as rows of text, chat messages or token
//! ids.
//!
//! Every file is treated as hostile. Rows are read one at a time, every size is bounded ([`limits`]), and an error names
//! the file and the row. The crate knows no protobuf, HTTP, SQL or async; services call it from blocking threads.
//!
//! A dataset is registered by a [`scan()`]: it finds the columns, counts the rows and hashes the files. A [`Dataset`] then
//! reads the registered files. [`AllowedFolders`] decides which paths of this machine may be registered.
//!
//! | module | holds |
//! |---|---|
//! | `allowed_folders` | the files that a person's path or pattern means, and whether they may be read |
//! | `formats` | one reader of rows for each format |
//! | `source` | opened files: decompressed and hashed while they are read |
//! | `scan` | the facts of a dataset that is registered |
//! | `dataset` | the rows of a registered dataset |

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

mod allowed_folders;
mod dataset;
mod error;
mod formats;
pub mod limits;
mod row;
mod scan;
mod source;

pub use allowed_folders::{AllowedFolders, PathError};
pub use dataset::{DataFile, Dataset, Preview, Rows, Selection};
pub use error::{Error, Result};
pub use formats::{EXTENSIONS, Format};
pub use row::{Column, Kind, Message, Row, choose_column};
pub use scan::{Scan, ScannedFile, find_column, scan};
pub use source::Stop;
