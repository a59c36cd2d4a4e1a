//! gRPC and gRPC-web: the three services wherever they live, health and reflection.

use axum::Router;
use millm_kit::{Conn, host::serve_conn};
use millm_proto::{
    catalog::v1::catalog_service_server::SERVICE_NAME as CATALOG,
    downloader::v1::downloader_service_server::SERVICE_NAME as DOWNLOADER,
    runtime::v1::runtime_service_server::SERVICE_NAME as RUNTIME,
};
use tonic_web::GrpcWebLayer;

use crate::Services;

pub struct GrpcRoutes {
    pub known: Router,
    /// Answers UNIMPLEMENTED to calls of anything else.
    pub unknown: Router,
}

pub fn routes(services: &Services, host_routes: Router) -> GrpcRoutes {
    let service = |name: &str, conn: &Conn| {
        Router::new().route_service(&format!("/{name}/{{*method}}"), serve_conn(conn.clone()))
    };
    let known = Router::new()
        .merge(service(CATALOG, &services.catalog))
        .merge(service(DOWNLOADER, &services.downloader))
        .merge(service(RUNTIME, &services.runtime))
        .merge(host_routes);
    let unknown = Router::new().fallback(|| async {
        tonic::Status::unimplemented("unknown service").into_http::<axum::body::Body>()
    });
    // Plain HTTP/1 gets 400 in this layer, so it wraps nothing but gRPC.
    let web = GrpcWebLayer::new();
    GrpcRoutes { known: known.layer(web.clone()), unknown: unknown.layer(web) }
}
