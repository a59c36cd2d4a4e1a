//! The implementation of [`Store`] for the databases of sqlx. SQLite and PostgreSQL differ only in their migrations.

use sqlx::{
    Database, Encode, Executor, FromRow, IntoArguments, Pool, QueryBuilder, Type, query::Query, types::Json,
};

use super::{
    error::StoreError,
    interface::{Filter, QUERY_TIMEOUT, Store, StoreFuture},
    row::{ModelRow, StoredArchitecture, StoredFile},
};

/// A store on a pool of connections.
pub(crate) struct SqlStore<DB: Database> {
    pool: Pool<DB>,
}

impl<DB: Database> SqlStore<DB> {
    /// Returns a store on `pool`.
    pub fn new(pool: Pool<DB>) -> Self {
        Self { pool }
    }

    /// Returns the connections.
    pub(super) fn pool(&self) -> &Pool<DB> {
        &self.pool
    }
}

/// A type that can be bound to a parameter of a statement.
pub(crate) trait Bind<DB: Database>: for<'q> Encode<'q, DB> + Type<DB> {}
impl<DB: Database, T: for<'q> Encode<'q, DB> + Type<DB>> Bind<DB> for T {}

macro_rules! columns {
    ($($name:ident = $number:literal),* $(,)?) => {
        const INSERT: &str = concat!(
            "INSERT INTO models (", columns!(@list $($name)*), ") VALUES (", columns!(@list $($number)*),
            ") RETURNING *",
        );
        const REPLACE: &str = concat!(
            "UPDATE models SET ", columns!(@set $($name $number)*), " WHERE id = $26 AND version = $27",
        );

        /// Binds every column but the id, in the order of the statements above.
        fn bind<DB: Database>(
            query: Query<'static, DB, DB::Arguments>,
            row: ModelRow,
        ) -> Query<'static, DB, DB::Arguments>
        where
            i64: Bind<DB>,
            String: Bind<DB>,
            bool: Bind<DB>,
            Vec<u8>: Bind<DB>,
            Json<Option<StoredArchitecture>>: Bind<DB>,
            Json<Vec<StoredFile>>: Bind<DB>,
        {
            query $(.bind(row.$name))*
        }
    };
    (@list $first:tt $($rest:tt)*) => { concat!(columns!(@text $first), $(", ", columns!(@text $rest)),*) };
    (@set $name:ident $number:literal $($more:ident $numbers:literal)*) => {
        concat!(stringify!($name), " = ", $number, $(", ", stringify!($more), " = ", $numbers),*)
    };
    (@text $name:ident) => { stringify!($name) };
    (@text $number:literal) => { $number };
}

columns! {
    handle = "$1", source = "$2", repo_id = "$3", revision = "$4", commit_id = "$5", file = "$6",
    local_path = "$7", storage_path = "$8", requested_quantization = "$9", actual_quantization = "$10",
    quantization_reason = "$11", architecture = "$12", parameter_count = "$13", disk_size_bytes = "$14",
    memory_estimate_bytes = "$15", config_json = "$16", files = "$17", trust_remote_code = "$18",
    has_chat_template = "$19", state = "$20", error = "$21", search_text = "$22", version = "$23",
    create_time = "$24", update_time = "$25",
}

impl<DB> Store for SqlStore<DB>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    ModelRow: for<'r> FromRow<'r, DB::Row>,
    (String,): for<'r> FromRow<'r, DB::Row>,
    (i64,): for<'r> FromRow<'r, DB::Row>,
    DB::QueryResult: RowsAffected,
    i64: Bind<DB>,
    String: Bind<DB>,
    bool: Bind<DB>,
    Vec<u8>: Bind<DB>,
    Json<Option<StoredArchitecture>>: Bind<DB>,
    Json<Vec<StoredFile>>: Bind<DB>,
{
    fn insert(&self, row: ModelRow) -> StoreFuture<'_, ModelRow> {
        with_timeout(async move {
            let row = bind(sqlx::query(INSERT), row).fetch_one(&self.pool).await?;
            ModelRow::from_row(&row)
        })
    }

    fn get(&self, id: i64) -> StoreFuture<'_, Option<ModelRow>> {
        with_timeout(sqlx::query_as("SELECT * FROM models WHERE id = $1").bind(id).fetch_optional(&self.pool))
    }

    fn find(&self, handle: String) -> StoreFuture<'_, Option<ModelRow>> {
        let query = sqlx::query_as("SELECT * FROM models WHERE handle = $1");
        with_timeout(query.bind(handle).fetch_optional(&self.pool))
    }

    fn find_same(&self, row: ModelRow) -> StoreFuture<'_, Option<ModelRow>> {
        with_timeout(async move {
            if row.source == "LOCAL" {
                let query = sqlx::query_as("SELECT * FROM models WHERE source = 'LOCAL' AND local_path = $1");
                return query.bind(row.local_path).fetch_optional(&self.pool).await;
            }
            let query = sqlx::query_as(
                "SELECT * FROM models WHERE source = 'HUGGINGFACE' AND lower(repo_id) = lower($1) \
                 AND requested_quantization = $2 AND file = $3",
            );
            let query = query.bind(row.repo_id).bind(row.requested_quantization).bind(row.file);
            query.fetch_optional(&self.pool).await
        })
    }

    fn handles(&self, prefix: String) -> StoreFuture<'_, Vec<String>> {
        let pattern = format!("{}%", escape_like(&prefix));
        with_timeout(async move {
            let query = sqlx::query_as(r"SELECT handle FROM models WHERE handle LIKE $1 ESCAPE '\'");
            let rows: Vec<(String,)> = query.bind(pattern).fetch_all(&self.pool).await?;
            Ok(rows.into_iter().map(|(handle,)| handle).collect())
        })
    }

    fn list(&self, filter: Filter, after: i64, limit: i64) -> StoreFuture<'_, Vec<ModelRow>> {
        with_timeout(async move {
            let mut query = QueryBuilder::<DB>::new("SELECT * FROM models WHERE id > ");
            query.push_bind(after);
            restrict(&mut query, filter);
            query.push(" ORDER BY id LIMIT ").push_bind(limit);
            query.build_query_as().fetch_all(&self.pool).await
        })
    }

    fn count(&self, filter: Filter) -> StoreFuture<'_, i64> {
        with_timeout(async move {
            let mut query = QueryBuilder::<DB>::new("SELECT COUNT(*) FROM models WHERE id > ");
            query.push_bind(0_i64);
            restrict(&mut query, filter);
            let (count,): (i64,) = query.build_query_as().fetch_one(&self.pool).await?;
            Ok(count)
        })
    }

    fn replace(&self, row: ModelRow, version: i64) -> StoreFuture<'_, bool> {
        with_timeout(async move {
            let id = row.id;
            let query = bind(sqlx::query(REPLACE), row).bind(id).bind(version);
            Ok(query.execute(&self.pool).await?.count() > 0)
        })
    }

    fn delete(&self, id: i64, version: Option<i64>) -> StoreFuture<'_, bool> {
        with_timeout(async move {
            let query = match version {
                Some(version) => {
                    sqlx::query("DELETE FROM models WHERE id = $1 AND version = $2").bind(id).bind(version)
                }
                None => sqlx::query("DELETE FROM models WHERE id = $1").bind(id),
            };
            Ok(query.execute(&self.pool).await?.count() > 0)
        })
    }

    fn ping(&self) -> StoreFuture<'_, ()> {
        with_timeout(async move {
            // Reads the table: the check also fails for a replaced file or a dropped schema.
            let query = sqlx::query("SELECT 1 FROM models LIMIT 1");
            query.fetch_optional(&self.pool).await.map(drop)
        })
    }
}

/// Appends the filter's conditions.
fn restrict<DB: Database>(query: &mut QueryBuilder<DB>, filter: Filter)
where
    String: Bind<DB>,
{
    if !filter.states.is_empty() {
        query.push(" AND state IN (");
        let mut list = query.separated(", ");
        for state in filter.states {
            list.push_bind(state);
        }
        query.push(")");
    }
    if !filter.text.is_empty() {
        query.push(" AND search_text LIKE ");
        query.push_bind(format!("%{}%", escape_like(&filter.text.to_lowercase())));
        query.push(r" ESCAPE '\'");
    }
}

/// Escapes the wildcards of a LIKE pattern.
pub(super) fn escape_like(text: &str) -> String {
    text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_")
}

/// The number of rows that a statement changed. Each database of sqlx has its own type for it.
pub(crate) trait RowsAffected {
    fn count(&self) -> u64;
}

impl RowsAffected for sqlx::sqlite::SqliteQueryResult {
    fn count(&self) -> u64 {
        self.rows_affected()
    }
}

impl RowsAffected for sqlx::postgres::PgQueryResult {
    fn count(&self) -> u64 {
        self.rows_affected()
    }
}

/// Bounds a query by [`QUERY_TIMEOUT`].
pub(super) fn with_timeout<'a, T>(
    work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'a,
) -> StoreFuture<'a, T> {
    Box::pin(async move {
        match tokio::time::timeout(QUERY_TIMEOUT, work).await {
            Ok(answer) => answer.map_err(StoreError::from),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {QUERY_TIMEOUT:?}"))),
        }
    })
}
