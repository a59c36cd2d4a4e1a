//! gRPC and gRPC-web: every call is forwarded to its service's connection, in this process or elsewhere.

use axum::Router;
use millm_kit::host::serve_conn;
use millm_proto::{
    catalog::v1::catalog_service_server::SERVICE_NAME as CATALOG,
    downloader::v1::downloader_service_server::SERVICE_NAME as DOWNLOADER,
    runtime::v1::runtime_service_server::SERVICE_NAME as RUNTIME,
};
use tonic_web::GrpcWebLayer;
use tower::Layer as _;

use crate::Services;

/// `host`: health and reflection, as native gRPC (a page has no use for them); its routes of the three services
/// are not reached through here. GrpcWebLayer answers 400 to plain HTTP/1, so that it wraps these routes alone.
pub fn routes(services: &Services, host: Router) -> Router {
    let mut router = Router::new();
    for (name, conn) in [(CATALOG, &services.catalog), (DOWNLOADER, &services.downloader), (RUNTIME, &services.runtime)]
    {
        router = router.route_service(&format!("/{name}/{{*rest}}"), GrpcWebLayer::new().layer(serve_conn(conn.clone())));
    }
    const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/{*rest}";
    const HEALTH: &str = "/grpc.health.v1.Health/{*rest}";
    router.route_service(REFLECTION, host.clone()).route_service(HEALTH, host)
}
