//! The rows of datasets and templates: an encoded message, beside the columns by which it is searched and sorted.

use sqlx::{Database, Executor, FromRow, IntoArguments};

use super::{
    interface::StoreFuture,
    sql::{Bind, RowsAffected, SqlStore, escape_like, with_timeout},
};

/// A row of `datasets` or `templates`.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(crate) struct EntityRow {
    pub id: i64,
    pub handle: String,
    /// The column `pending` or `favorite`.
    pub flag: bool,
    /// The API's message, encoded.
    pub body: Vec<u8>,
    pub version: i64,
    pub create_time: i64,
    pub update_time: i64,
}

/// The place after which a list goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Oldest first: ids greater than this one.
    Id(i64),
    /// Rows with the flag first, then the newest: what follows this row in that order.
    Row { flag: bool, id: i64 },
}

/// The statements of one table.
pub(crate) struct Table {
    insert: &'static str,
    get: &'static str,
    find: &'static str,
    handles: &'static str,
    oldest_first: &'static str,
    flagged_first: &'static str,
    replace: &'static str,
    delete: &'static str,
    delete_version: &'static str,
}

macro_rules! table {
    ($name:literal, $flag:literal) => {
        Table {
            insert: concat!(
                "INSERT INTO ", $name, " (handle, ", $flag, ", body, version, create_time, update_time) \
                 VALUES ($1, $2, $3, $4, $5, $6) RETURNING id, handle, ", $flag, " AS flag, body, version, \
                 create_time, update_time",
            ),
            get: concat!(table!(@select $name, $flag), "WHERE id = $1"),
            find: concat!(table!(@select $name, $flag), "WHERE handle = $1"),
            handles: concat!("SELECT handle FROM ", $name, r" WHERE handle LIKE $1 ESCAPE '\'"),
            oldest_first: concat!(table!(@select $name, $flag), "WHERE id > $1 ORDER BY id LIMIT $2"),
            flagged_first: concat!(
                table!(@select $name, $flag),
                "WHERE ", $flag, " < $1 OR (", $flag, " = $1 AND id < $2) ORDER BY ", $flag, " DESC, id DESC LIMIT $3",
            ),
            replace: concat!(
                "UPDATE ", $name, " SET handle = $1, ", $flag, " = $2, body = $3, version = $4, update_time = $5 \
                 WHERE id = $6 AND version = $7",
            ),
            delete: concat!("DELETE FROM ", $name, " WHERE id = $1"),
            delete_version: concat!("DELETE FROM ", $name, " WHERE id = $1 AND version = $2"),
        }
    };
    (@select $name:literal, $flag:literal) => {
        concat!(
            "SELECT id, handle, ", $flag, " AS flag, body, version, create_time, update_time FROM ", $name, " ",
        )
    };
}

/// The table `datasets`. Its flag is `pending`.
pub(crate) static DATASETS: Table = table!("datasets", "pending");
/// The table `templates`. Its flag is `favorite`.
pub(crate) static TEMPLATES: Table = table!("templates", "favorite");

/// The rows of one kind of entity. No call takes longer than the timeout of queries.
pub(crate) trait EntityStore: Send + Sync + 'static {
    /// Inserts a row and returns it with its id. `Duplicate` if its handle exists.
    fn insert(&self, table: &'static Table, row: EntityRow) -> StoreFuture<'_, EntityRow>;
    /// Returns the row with this id.
    fn get(&self, table: &'static Table, id: i64) -> StoreFuture<'_, Option<EntityRow>>;
    /// Returns the row with this handle.
    fn find(&self, table: &'static Table, handle: String) -> StoreFuture<'_, Option<EntityRow>>;
    /// Returns all handles with this prefix.
    fn handles(&self, table: &'static Table, prefix: String) -> StoreFuture<'_, Vec<String>>;
    /// Returns at most `limit` rows after a place, in the order that the place has.
    fn list(&self, table: &'static Table, after: After, limit: i64) -> StoreFuture<'_, Vec<EntityRow>>;
    /// Replaces the row and returns true if its version is still `version`. `Duplicate` if its new handle exists.
    fn replace(&self, table: &'static Table, row: EntityRow, version: i64) -> StoreFuture<'_, bool>;
    /// Deletes the row, only in this version if one is given. Returns whether there was one.
    fn delete(&self, table: &'static Table, id: i64, version: Option<i64>) -> StoreFuture<'_, bool>;
}

impl<DB> EntityStore for SqlStore<DB>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    EntityRow: for<'r> FromRow<'r, DB::Row>,
    (String,): for<'r> FromRow<'r, DB::Row>,
    DB::QueryResult: RowsAffected,
    i64: Bind<DB>,
    String: Bind<DB>,
    bool: Bind<DB>,
    Vec<u8>: Bind<DB>,
{
    fn insert(&self, table: &'static Table, row: EntityRow) -> StoreFuture<'_, EntityRow> {
        let query = sqlx::query_as(table.insert).bind(row.handle).bind(row.flag).bind(row.body);
        let query = query.bind(row.version).bind(row.create_time).bind(row.update_time);
        with_timeout(query.fetch_one(self.pool()))
    }

    fn get(&self, table: &'static Table, id: i64) -> StoreFuture<'_, Option<EntityRow>> {
        with_timeout(sqlx::query_as(table.get).bind(id).fetch_optional(self.pool()))
    }

    fn find(&self, table: &'static Table, handle: String) -> StoreFuture<'_, Option<EntityRow>> {
        with_timeout(sqlx::query_as(table.find).bind(handle).fetch_optional(self.pool()))
    }

    fn handles(&self, table: &'static Table, prefix: String) -> StoreFuture<'_, Vec<String>> {
        let pattern = format!("{}%", escape_like(&prefix));
        with_timeout(async move {
            let query = sqlx::query_as(table.handles).bind(pattern);
            let rows: Vec<(String,)> = query.fetch_all(self.pool()).await?;
            Ok(rows.into_iter().map(|(handle,)| handle).collect())
        })
    }

    fn list(&self, table: &'static Table, after: After, limit: i64) -> StoreFuture<'_, Vec<EntityRow>> {
        let query = match after {
            After::Id(id) => sqlx::query_as(table.oldest_first).bind(id),
            After::Row { flag, id } => sqlx::query_as(table.flagged_first).bind(flag).bind(id),
        };
        with_timeout(query.bind(limit).fetch_all(self.pool()))
    }

    fn replace(&self, table: &'static Table, row: EntityRow, version: i64) -> StoreFuture<'_, bool> {
        with_timeout(async move {
            let query = sqlx::query(table.replace).bind(row.handle).bind(row.flag).bind(row.body);
            let query = query.bind(row.version).bind(row.update_time).bind(row.id).bind(version);
            Ok(query.execute(self.pool()).await?.count() > 0)
        })
    }

    fn delete(&self, table: &'static Table, id: i64, version: Option<i64>) -> StoreFuture<'_, bool> {
        with_timeout(async move {
            let query = match version {
                Some(version) => sqlx::query(table.delete_version).bind(id).bind(version),
                None => sqlx::query(table.delete).bind(id),
            };
            Ok(query.execute(self.pool()).await?.count() > 0)
        })
    }
}
