//! Tests of the gRPC service on both databases. Each test runs on SQLite in its own folder, and on PostgreSQL in its
//! own schema.

mod database_errors;
mod datasets;
mod fixture;
mod models;
mod templates;
mod watch;

/// `on_both_databases! { a }` defines the tests `sqlite::a` and `postgres::a` for `async fn a(fixture: Fixture)`.
macro_rules! on_both_databases {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test] async fn $name() { $crate::tests::fixture::on_sqlite(super::$name).await; })*
        }
        mod postgres {
            $(#[tokio::test] async fn $name() { $crate::tests::fixture::on_postgres(super::$name).await; })*
        }
    };
}
use on_both_databases;
