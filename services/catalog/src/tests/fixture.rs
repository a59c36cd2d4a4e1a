//! A catalog on an empty database, and the calls that tests make on it.

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::FutureExt as _;
use millm_kit::{Channel, Host, ServiceError, Settings, Shutdown};
use millm_proto::catalog::v1::{
    CreateModelRequest, DeleteModelRequest, GetModelRequest, ListModelsRequest, ListModelsResponse, Model,
    Quantization, Source, UpdateModelRequest, WatchModelsRequest, WatchModelsResponse,
    catalog_service_client::CatalogServiceClient, datasets_service_client::DatasetsServiceClient,
    templates_service_client::TemplatesServiceClient,
};
use prost_types::FieldMask;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use tonic::Streaming;

use crate::Catalog;

/// A mounted catalog.
pub struct Fixture {
    pub host: Host,
    pub channel: Channel,
    pub settings: Settings,
}

/// Runs a test on SQLite.
pub async fn on_sqlite<F: Future<Output = ()>>(test: impl FnOnce(Fixture) -> F) {
    let folder = tempfile::tempdir().unwrap();
    // The inner folder does not exist yet: the catalog creates it.
    let url = format!("sqlite://{}/data/millm.db", folder.path().display());
    test(Fixture::open(&url).await).await;
}

/// Runs a test on PostgreSQL, in a schema that is dropped afterwards, also if the test panics.
pub async fn on_postgres<F: Future<Output = ()>>(test: impl FnOnce(Fixture) -> F) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let server = std::env::var("MILLM_TEST_POSTGRES")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/test".to_owned());
    let mut admin = PgConnection::connect(&server).await.unwrap_or_else(|error| {
        panic!(
            "this test needs PostgreSQL 14+ at {server} ({error}): install it (apt-get install postgresql), create \
             the database, or name another in MILLM_TEST_POSTGRES"
        )
    });
    let schema = format!("millm_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let create = format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await.unwrap();
    let sign = if server.contains('?') { '&' } else { '?' };
    let url = format!("{server}{sign}options=-c%20search_path%3D{schema}");
    let outcome = AssertUnwindSafe(async { test(Fixture::open(&url).await).await }).catch_unwind().await;
    let drop = format!("DROP SCHEMA {schema} CASCADE");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut admin).await.unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Fixture {
    pub async fn open(url: &str) -> Self {
        let flags = [("database_url", url.to_owned())];
        let settings = Settings::load(None, |_| None, &flags).unwrap();
        let mut host = Host::new(Shutdown::default());
        let channel = Catalog::build(&settings).await.unwrap().mount(&mut host).await;
        Self { host, channel, settings }
    }

    /// Opens a second catalog on the same database.
    pub async fn another(&self) -> Self {
        Self::open(self.settings.database_url.expose()).await
    }

    /// Executes statements on another connection.
    pub async fn sql(&self, text: &'static str) {
        let url = self.settings.database_url.expose();
        if self.settings.database_url.is_postgres() {
            let mut connection = PgConnection::connect(url).await.unwrap();
            sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
        } else {
            let mut connection = SqliteConnection::connect(url).await.unwrap();
            sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
        }
    }

    pub fn client(&self) -> CatalogServiceClient<Channel> {
        CatalogServiceClient::new(self.channel.clone())
    }

    pub fn datasets(&self) -> DatasetsServiceClient<Channel> {
        DatasetsServiceClient::new(self.channel.clone())
    }

    pub fn templates(&self) -> TemplatesServiceClient<Channel> {
        TemplatesServiceClient::new(self.channel.clone())
    }

    pub async fn create(&self, model: Model) -> Result<Model, ServiceError> {
        let request = CreateModelRequest { model: Some(model) };
        Ok(self.client().create_model(request).await?.into_inner())
    }

    pub async fn get(&self, name: &str) -> Result<Model, ServiceError> {
        Ok(self.client().get_model(GetModelRequest { name: name.into() }).await?.into_inner())
    }

    pub async fn list(&self, request: ListModelsRequest) -> Result<ListModelsResponse, ServiceError> {
        Ok(self.client().list_models(request).await?.into_inner())
    }

    pub async fn update(&self, model: Model, paths: &[&str]) -> Result<Model, ServiceError> {
        let update_mask = Some(FieldMask { paths: paths.iter().map(|&p| p.to_owned()).collect() });
        let request = UpdateModelRequest { model: Some(model), update_mask };
        Ok(self.client().update_model(request).await?.into_inner())
    }

    pub async fn delete(&self, name: &str, etag: &str) -> Result<(), ServiceError> {
        let request = DeleteModelRequest { name: name.into(), etag: etag.into() };
        self.client().delete_model(request).await?;
        Ok(())
    }

    pub async fn watch(&self) -> Streaming<WatchModelsResponse> {
        self.client().watch_models(WatchModelsRequest {}).await.unwrap().into_inner()
    }
}

/// Returns a model from the hub.
pub fn hub(repo: &str, quantization: Quantization) -> Model {
    Model {
        source: Source::Huggingface.into(),
        repo_id: repo.into(),
        requested_quantization: quantization.into(),
        ..Model::default()
    }
}

/// Returns a local model.
pub fn local(path: &str) -> Model {
    Model { source: Source::Local.into(), local_path: path.into(), ..Model::default() }
}
