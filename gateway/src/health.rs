//! `/healthz`: the process lives. `/readyz`: the three services are ready, each by its own gRPC health.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use millm_api::health::{Health, Readiness, ServiceState};
use millm_kit::Channel;
use millm_proto::{
    catalog::v1::catalog_service_server::SERVICE_NAME as CATALOG,
    downloader::v1::downloader_service_server::SERVICE_NAME as DOWNLOADER,
    runtime::v1::runtime_service_server::SERVICE_NAME as RUNTIME,
};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::state::AppState;

/// A service that takes longer is not ready.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the routes; `host_routes` have the health of this process's services.
pub fn routes(host_routes: Router) -> Router<Arc<AppState>> {
    let ready = move |State(app): State<Arc<AppState>>| ready(app, host_routes.clone());
    Router::new().route("/healthz", get(async || Json(Health { status: "ok" }))).route("/readyz", get(ready))
}

async fn ready(app: Arc<AppState>, host_routes: Router) -> Response {
    let services = &app.services;
    let (catalog, downloader, runtime) = futures::join!(
        check(CATALOG, &services.catalog, &host_routes),
        check(DOWNLOADER, &services.downloader, &host_routes),
        check(RUNTIME, &services.runtime, &host_routes),
    );
    let mut services =
        BTreeMap::from([("catalog", catalog), ("downloader", downloader), ("runtime", runtime)]);
    if app.stopping.is_cancelled() {
        services.insert("gateway", ServiceState::Stopping);
    }
    let ready = services.values().all(|state| *state == ServiceState::Serving);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, services })).into_response()
}

/// Returns how a service answers. The host knows the services of this process; others know themselves.
async fn check(name: &str, channel: &Channel, host_routes: &Router) -> ServiceState {
    let request = || HealthCheckRequest { service: name.to_owned() };
    let asked = async {
        match HealthClient::new(host_routes.clone()).check(request()).await {
            Err(status) if status.code() == Code::NotFound => {
                HealthClient::new(channel.clone()).check(request()).await
            }
            answer => answer,
        }
    };
    let answer =
        tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("")));
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => ServiceState::Serving,
        Ok(_) => ServiceState::NotServing,
        Err(_) => ServiceState::NotAnswering,
    }
}
