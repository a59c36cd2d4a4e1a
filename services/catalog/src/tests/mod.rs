//! One suite for both databases, over real connections: each test runs on SQLite in a folder of its own and on
//! PostgreSQL in a schema of its own, and calls the catalogue as its clients do.

mod harness;
mod models;
mod trouble;
mod watching;

/// `on_both! { a, b }` makes of `async fn a(world: World)` the tests `sqlite::a` and `postgres::a`.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test] async fn $name() { $crate::tests::harness::on_sqlite(super::$name).await; })*
        }
        mod postgres {
            $(#[tokio::test] async fn $name() { $crate::tests::harness::on_postgres(super::$name).await; })*
        }
    };
}
use on_both;
