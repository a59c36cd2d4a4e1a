//! `/healthz`: the process lives. `/readyz`: the three services are ready, each by its own gRPC health.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use millm_kit::Conn;
use millm_proto::{
    catalog::v1::catalog_service_server::SERVICE_NAME as CATALOG,
    downloader::v1::downloader_service_server::SERVICE_NAME as DOWNLOADER,
    runtime::v1::runtime_service_server::SERVICE_NAME as RUNTIME,
};
use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::app::App;

/// A service that takes longer is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn routes(host_routes: Router) -> Router<Arc<App>> {
    let ready = move |State(app): State<Arc<App>>| ready(app, host_routes.clone());
    Router::new().route("/healthz", get(async || Json(json!({"status": "ok"})))).route("/readyz", get(ready))
}

async fn ready(app: Arc<App>, host_routes: Router) -> Response {
    let services = &app.services;
    let (catalog, downloader, runtime) = futures::join!(
        check(CATALOG, &services.catalog, &host_routes),
        check(DOWNLOADER, &services.downloader, &host_routes),
        check(RUNTIME, &services.runtime, &host_routes),
    );
    let mut words = Map::new();
    for (name, state) in [("catalog", catalog), ("downloader", downloader), ("runtime", runtime)] {
        words.insert(name.to_owned(), Value::from(state));
    }
    if app.stopping.is_cancelled() {
        words.insert("gateway".to_owned(), Value::from("stopping"));
    }
    let ready = words.values().all(|state| state == "serving");
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": ready, "services": words}))).into_response()
}

/// "serving", "not serving" or "not answering". The host knows those of this process; others know themselves.
async fn check(name: &str, conn: &Conn, host_routes: &Router) -> &'static str {
    let request = || HealthCheckRequest { service: name.to_owned() };
    let asked = async {
        match HealthClient::new(host_routes.clone()).check(request()).await {
            Err(status) if status.code() == Code::NotFound => {
                HealthClient::new(conn.clone()).check(request()).await
            }
            answer => answer,
        }
    };
    let answer =
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("")));
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => "serving",
        Ok(_) => "not serving",
        Err(_) => "not answering",
    }
}
