//! Opens the database that the settings name and brings its tables up to date.

use std::{str::FromStr as _, time::Duration};

use millm_kit::settings::DatabaseUrl;
use sqlx::{
    SqlitePool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{Store, sql::SqlStore};
use crate::BuildError;

static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres");

const IDENTITY: &str = "SELECT id FROM identity";

/// How long a call waits for a connection or for SQLite's write lock.
const WAIT: Duration = Duration::from_secs(5);

/// The store, and with PostgreSQL what to listen on for the changes of other catalogues.
pub struct Opened {
    pub store: Box<dyn Store>,
    pub postgres: Option<PgPool>,
    /// Which catalogue this is, made with its tables.
    pub identity: String,
}

/// Waits a few seconds for a server that is starting. SQLite's file and folder are created.
pub async fn open(url: &DatabaseUrl) -> Result<Opened, BuildError> {
    if url.is_postgres() { open_postgres(url).await } else { open_sqlite(url).await }
}

async fn open_sqlite(url: &DatabaseUrl) -> Result<Opened, BuildError> {
    let failed = |cause: sqlx::Error| BuildError::Open { url: format!("{url:?}"), cause };
    let options = SqliteConnectOptions::from_str(url.expose())
        .map_err(failed)?
        .create_if_missing(true)
        .foreign_keys(true)
        .busy_timeout(WAIT)
        .journal_mode(SqliteJournalMode::Wal)
        // A row that says READY is there after a power cut as well.
        .synchronous(SqliteSynchronous::Full);
    let in_memory = url.expose().contains(":memory:") || url.expose().contains("mode=memory");
    if !in_memory
        && let Some(folder) = options.get_filename().parent()
        && !folder.as_os_str().is_empty()
    {
        std::fs::create_dir_all(folder)
            .map_err(|cause| BuildError::Folder { folder: folder.to_owned(), cause })?;
    }
    // A database in memory lives as long as its one connection.
    let pool: SqlitePool = SqlitePoolOptions::new()
        .max_connections(if in_memory { 1 } else { 4 })
        .acquire_timeout(WAIT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
        .map_err(failed)?;
    SQLITE.run(&pool).await.map_err(|cause| migrate_failed(url, cause))?;
    let (identity,) = sqlx::query_as(IDENTITY).fetch_one(&pool).await.map_err(failed)?;
    Ok(Opened { store: Box::new(SqlStore::new(pool)), postgres: None, identity })
}

async fn open_postgres(url: &DatabaseUrl) -> Result<Opened, BuildError> {
    let failed = |cause: sqlx::Error| BuildError::Open { url: format!("{url:?}"), cause };
    let options = PgConnectOptions::from_str(url.expose()).map_err(failed)?.application_name("millm-catalog");
    let pool: PgPool = PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(WAIT)
        .connect_with(options)
        .await
        .map_err(failed)?;
    POSTGRES.run(&pool).await.map_err(|cause| migrate_failed(url, cause))?;
    let (identity,) = sqlx::query_as(IDENTITY).fetch_one(&pool).await.map_err(failed)?;
    Ok(Opened { store: Box::new(SqlStore::new(pool.clone())), postgres: Some(pool), identity })
}

fn migrate_failed(url: &DatabaseUrl, cause: MigrateError) -> BuildError {
    BuildError::Migrate { url: format!("{url:?}"), cause }
}
