//! The database: rows of models, datasets and templates in SQLite or PostgreSQL.
//!
//! Writes are single statements that check the row's version, so no call keeps a transaction open.

mod entities;
mod error;
mod interface;
mod open;
mod row;
mod sql;

pub(crate) use entities::{After, DATASETS, EntityRow, EntityStore, TEMPLATES, Table};
pub(crate) use error::StoreError;
pub(crate) use interface::{Filter, QUERY_TIMEOUT, Store};
pub(crate) use open::open;
pub(crate) use row::{ModelRow, etag, micros, state_word, timestamp};
