//! gRPC and gRPC-web: the services of the three roles wherever they run, the gateway's own service, health and reflection.

use std::sync::Arc;

use axum::Router;
use millm_kit::{Channel, host::serve_channel};
use millm_proto::{
    catalog::v1::{
        catalog_service_server::SERVICE_NAME as CATALOG, datasets_service_server::SERVICE_NAME as DATASETS,
        templates_service_server::SERVICE_NAME as TEMPLATES,
    },
    downloader::v1::downloader_service_server::SERVICE_NAME as DOWNLOADER,
    gateway::v1::models_service_server::{ModelsServiceServer, SERVICE_NAME as MODELS},
    inspection::v1::inspection_service_server::SERVICE_NAME as INSPECTION,
    runtime::v1::runtime_service_server::SERVICE_NAME as RUNTIME,
};
use tonic_web::GrpcWebLayer;

use crate::{state::AppState, watch_models::WatchedModels};

/// The routes of gRPC calls.
pub struct GrpcRoutes {
    /// Calls of services that exist.
    pub known: Router,
    /// Answers UNIMPLEMENTED to all other calls.
    pub unknown: Router,
}

/// Returns the routes; `host_routes` have health and reflection.
pub fn routes(app: &Arc<AppState>, host_routes: Router) -> GrpcRoutes {
    let service = |name: &str, channel: &Channel| {
        Router::new().route_service(&format!("/{name}/{{*method}}"), serve_channel(channel.clone()))
    };
    let models = Channel::local(ModelsServiceServer::new(WatchedModels::new(Arc::clone(app))));
    let known = Router::new()
        .merge(service(CATALOG, &app.services.catalog))
        .merge(service(DATASETS, &app.services.catalog))
        .merge(service(TEMPLATES, &app.services.catalog))
        .merge(service(DOWNLOADER, &app.services.downloader))
        .merge(service(RUNTIME, &app.services.runtime))
        .merge(service(INSPECTION, &app.services.runtime))
        .merge(service(MODELS, &models))
        .merge(host_routes);
    let unknown = Router::new().fallback(|| async {
        tonic::Status::unimplemented("unknown service").into_http::<axum::body::Body>()
    });
    // The layer answers 400 to plain HTTP/1, so it wraps only gRPC.
    let web = GrpcWebLayer::new();
    GrpcRoutes { known: known.layer(web.clone()), unknown: unknown.layer(web) }
}
