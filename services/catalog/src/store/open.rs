//! Opening of the database, and migration of its tables.

use std::{str::FromStr as _, time::Duration};

use millm_kit::settings::DatabaseUrl;
use sqlx::{
    SqlitePool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{entities::EntityStore, interface::Store, sql::SqlStore};
use crate::error::BuildError;

static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres");

const CATALOG_ID: &str = "SELECT id FROM identity";

/// The longest time that a call waits for a connection or for SQLite's write lock.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// An open database.
pub(crate) struct Opened {
    pub store: Box<dyn Store>,
    pub entities: Box<dyn EntityStore>,
    /// The connections of PostgreSQL, to listen for the changes of other catalogs.
    pub postgres: Option<PgPool>,
    /// The catalog's id, created with its tables.
    pub catalog_id: String,
}

/// Opens the database at `url`. Waits a few seconds for a server that is starting; creates SQLite's file and folder.
///
/// # Errors
///
/// Fails if the database cannot be created, opened or migrated.
pub(crate) async fn open(url: &DatabaseUrl) -> Result<Opened, BuildError> {
    if url.is_postgres() { open_postgres(url).await } else { open_sqlite(url).await }
}

async fn open_sqlite(url: &DatabaseUrl) -> Result<Opened, BuildError> {
    let failed = |cause: sqlx::Error| BuildError::Open { url: format!("{url:?}"), cause };
    let options = SqliteConnectOptions::from_str(url.expose())
        .map_err(failed)?
        .create_if_missing(true)
        .foreign_keys(true)
        .busy_timeout(ACQUIRE_TIMEOUT)
        .journal_mode(SqliteJournalMode::Wal)
        // A committed row must survive a power cut.
        .synchronous(SqliteSynchronous::Full);
    let in_memory = url.expose().contains(":memory:") || url.expose().contains("mode=memory");
    if !in_memory
        && let Some(folder) = options.get_filename().parent()
        && !folder.as_os_str().is_empty()
    {
        std::fs::create_dir_all(folder)
            .map_err(|cause| BuildError::Folder { folder: folder.to_owned(), cause })?;
    }
    // A database in memory exists only within its connection.
    let pool: SqlitePool = SqlitePoolOptions::new()
        .max_connections(if in_memory { 1 } else { 4 })
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
        .map_err(failed)?;
    SQLITE.run(&pool).await.map_err(|cause| migrate_failed(url, cause))?;
    let (catalog_id,) = sqlx::query_as(CATALOG_ID).fetch_one(&pool).await.map_err(failed)?;
    let entities = Box::new(SqlStore::new(pool.clone()));
    Ok(Opened { store: Box::new(SqlStore::new(pool)), entities, postgres: None, catalog_id })
}

async fn open_postgres(url: &DatabaseUrl) -> Result<Opened, BuildError> {
    let failed = |cause: sqlx::Error| BuildError::Open { url: format!("{url:?}"), cause };
    let options = PgConnectOptions::from_str(url.expose()).map_err(failed)?.application_name("millm-catalog");
    let pool: PgPool = PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options)
        .await
        .map_err(failed)?;
    POSTGRES.run(&pool).await.map_err(|cause| migrate_failed(url, cause))?;
    let (catalog_id,) = sqlx::query_as(CATALOG_ID).fetch_one(&pool).await.map_err(failed)?;
    let (store, entities) = (SqlStore::new(pool.clone()), SqlStore::new(pool.clone()));
    Ok(Opened { store: Box::new(store), entities: Box::new(entities), postgres: Some(pool), catalog_id })
}

fn migrate_failed(url: &DatabaseUrl, cause: MigrateError) -> BuildError {
    BuildError::Migrate { url: format!("{url:?}"), cause }
}
