//! Databases that are invalid, locked or gone.

use millm_kit::{Reason, Settings};
use millm_proto::catalog::v1::{ListModelsRequest, Quantization, catalog_service_server::SERVICE_NAME};
use sqlx::{Connection as _, SqliteConnection};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::fixture::{Fixture, hub};
use crate::{BuildError, Catalog};

super::on_both_databases! { health_follows_the_database }

async fn health_follows_the_database(fixture: Fixture) {
    let request = HealthCheckRequest { service: SERVICE_NAME.into() };
    let mut health = HealthClient::new(fixture.host.routes()).watch(request).await.unwrap().into_inner();
    let mut status = async || health.message().await.unwrap().unwrap().status();
    assert_eq!(status().await, ServingStatus::Serving);
    fixture.sql("ALTER TABLE models RENAME TO hidden").await;
    let error = fixture.list(ListModelsRequest::default()).await.unwrap_err();
    assert_eq!(error.reason, Reason::Internal);
    assert!(!error.message.contains("models"), "{}", error.message);
    assert_eq!(status().await, ServingStatus::NotServing);
    fixture.sql("ALTER TABLE hidden RENAME TO models").await;
    assert_eq!(status().await, ServingStatus::Serving);
    fixture.create(hub("a/b", Quantization::Q4)).await.unwrap();
}

#[tokio::test]
async fn a_call_waits_for_a_locked_database_no_longer_than_its_timeout() {
    super::fixture::on_sqlite(async |fixture: Fixture| {
        let mut other = SqliteConnection::connect(fixture.settings.database_url.expose()).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        let error = fixture.create(hub("a/b", Quantization::Q4)).await.unwrap_err();
        assert_eq!((error.reason, error.http_status()), (Reason::ServiceUnavailable, 503));
        assert!(error.retry_after.is_some());
        // Reads are not blocked.
        assert_eq!(fixture.list(ListModelsRequest::default()).await.unwrap().total_size, 0);
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        fixture.create(hub("a/b", Quantization::Q4)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_database_in_memory() {
    let fixture = Fixture::open("sqlite::memory:").await;
    let other = Fixture::open("sqlite::memory:").await;
    fixture.create(hub("a/b", Quantization::Q4)).await.unwrap();
    assert_eq!(other.list(ListModelsRequest::default()).await.unwrap().total_size, 0);
    assert_eq!(fixture.list(ListModelsRequest::default()).await.unwrap().total_size, 1);
}

#[tokio::test]
async fn databases_that_cannot_be_opened_are_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "no database").unwrap();
    let build = async |path: &str| {
        let url = format!("sqlite://{}/{path}", folder.path().display());
        let settings = Settings::load(None, |_| None, &[("database_url", url)]).unwrap();
        Catalog::build(&settings).await.map(drop).unwrap_err()
    };
    assert!(matches!(build("file/below/x.db").await, BuildError::Folder { .. }));
    let error = build("file").await;
    assert!(error.to_string().contains("/file: "), "{error}");
}
