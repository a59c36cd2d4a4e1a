//! The one implementation of [`Store`], for any database of sqlx that speaks our subset of SQL: the two
//! dialects differ in their migrations alone.

use std::future::Future;

use sqlx::{
    Database, Encode, Executor, FromRow, IntoArguments, Pool, QueryBuilder, Type, query::Query, types::Json,
};

use super::{
    Answer, Filter, ModelRow, PATIENCE, Store, StoreError,
    row::{StoredArchitecture, StoredFile},
};

pub struct SqlStore<DB: Database> {
    pool: Pool<DB>,
}

impl<DB: Database> SqlStore<DB> {
    pub fn new(pool: Pool<DB>) -> Self {
        Self { pool }
    }
}

/// A type that can be bound in a statement.
pub trait Bind<DB: Database>: for<'q> Encode<'q, DB> + Type<DB> {}
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
    fn insert(&self, row: ModelRow) -> Answer<'_, ModelRow> {
        within(async move {
            let row = bind(sqlx::query(INSERT), row).fetch_one(&self.pool).await?;
            ModelRow::from_row(&row)
        })
    }

    fn get(&self, id: i64) -> Answer<'_, Option<ModelRow>> {
        within(sqlx::query_as("SELECT * FROM models WHERE id = $1").bind(id).fetch_optional(&self.pool))
    }

    fn find(&self, handle: String) -> Answer<'_, Option<ModelRow>> {
        let query = sqlx::query_as("SELECT * FROM models WHERE handle = $1");
        within(query.bind(handle).fetch_optional(&self.pool))
    }

    fn find_same(&self, row: ModelRow) -> Answer<'_, Option<ModelRow>> {
        within(async move {
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

    fn handles(&self, prefix: String) -> Answer<'_, Vec<String>> {
        let pattern = format!("{}%", escape_like(&prefix));
        within(async move {
            let query = sqlx::query_as(r"SELECT handle FROM models WHERE handle LIKE $1 ESCAPE '\'");
            let rows: Vec<(String,)> = query.bind(pattern).fetch_all(&self.pool).await?;
            Ok(rows.into_iter().map(|(handle,)| handle).collect())
        })
    }

    fn list(&self, filter: Filter, after: i64, limit: i64) -> Answer<'_, Vec<ModelRow>> {
        within(async move {
            let mut query = QueryBuilder::<DB>::new("SELECT * FROM models WHERE id > ");
            query.push_bind(after);
            restrict(&mut query, filter);
            query.push(" ORDER BY id LIMIT ").push_bind(limit);
            query.build_query_as().fetch_all(&self.pool).await
        })
    }

    fn count(&self, filter: Filter) -> Answer<'_, i64> {
        within(async move {
            let mut query = QueryBuilder::<DB>::new("SELECT COUNT(*) FROM models WHERE id > ");
            query.push_bind(0_i64);
            restrict(&mut query, filter);
            let (count,): (i64,) = query.build_query_as().fetch_one(&self.pool).await?;
            Ok(count)
        })
    }

    fn replace(&self, row: ModelRow, version: i64) -> Answer<'_, bool> {
        within(async move {
            let id = row.id;
            let query = bind(sqlx::query(REPLACE), row).bind(id).bind(version);
            Ok(query.execute(&self.pool).await?.count() > 0)
        })
    }

    fn delete(&self, id: i64, version: Option<i64>) -> Answer<'_, bool> {
        within(async move {
            let query = match version {
                Some(version) => {
                    sqlx::query("DELETE FROM models WHERE id = $1 AND version = $2").bind(id).bind(version)
                }
                None => sqlx::query("DELETE FROM models WHERE id = $1").bind(id),
            };
            Ok(query.execute(&self.pool).await?.count() > 0)
        })
    }

    fn ping(&self) -> Answer<'_, ()> {
        within(async move {
            // Reads the table: a file that was replaced or a schema that was dropped does not pass.
            let query = sqlx::query("SELECT 1 FROM models LIMIT 1");
            query.fetch_optional(&self.pool).await.map(drop)
        })
    }
}

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

fn escape_like(text: &str) -> String {
    text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_")
}

/// How many rows a statement changed: each database of sqlx says it in a type of its own.
pub trait RowsAffected {
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

fn within<'a, T>(work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'a) -> Answer<'a, T> {
    Box::pin(async move {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(answer) => answer.map_err(StoreError::from),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {PATIENCE:?}"))),
        }
    })
}
