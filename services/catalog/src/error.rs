//! Failures to start the catalog.

use std::path::PathBuf;

/// The catalog cannot start. Database addresses are shown without their passwords.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The folder of SQLite's file cannot be created.
    #[error("cannot create the folder {} for the database: {cause}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The database cannot be opened.
    #[error("cannot open the database {url}: {cause}")]
    Open {
        /// The address.
        url: String,
        /// The database's error.
        cause: sqlx::Error,
    },
    /// A migration failed.
    #[error("cannot migrate the tables of {url}: {cause}")]
    Migrate {
        /// The address.
        url: String,
        /// The migration's error.
        cause: sqlx::migrate::MigrateError,
    },
}
