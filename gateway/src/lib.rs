//! One port for everything: native gRPC and gRPC-web (forwarded to the services, wherever they live), OpenAI's
//! REST, the management REST with its events, and the web app.

mod grpc;
mod guard;
mod health;
mod management;
//mod openai;
mod reply;
mod web;

use std::net::SocketAddr;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    response::{IntoResponse as _, Response},
};
use millm_kit::{Conn, ServiceError, Settings};
use millm_proto::{
    catalog::v1::catalog_service_client::CatalogServiceClient,
    downloader::v1::downloader_service_client::DownloaderServiceClient,
    runtime::v1::runtime_service_client::RuntimeServiceClient,
};
use tokio_util::task::TaskTracker;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
};

/// Bodies of REST calls; gRPC has its own limit.
const BODY_LIMIT: usize = 8 << 20;

/// How to reach the three services.
#[derive(Debug, Clone)]
pub struct Services {
    pub catalog: Conn,
    pub downloader: Conn,
    pub runtime: Conn,
}

/// What every handler gets.
#[derive(Debug, Clone)]
pub(crate) struct State {
    services: Services,
    /// Work that outlives the request that asked for it.
    tasks: TaskTracker,
}

impl State {
    pub fn catalog(&self) -> CatalogServiceClient<Conn> {
        CatalogServiceClient::new(self.services.catalog.clone())
    }

    pub fn downloader(&self) -> DownloaderServiceClient<Conn> {
        DownloaderServiceClient::new(self.services.downloader.clone())
    }

    pub fn runtime(&self) -> RuntimeServiceClient<Conn> {
        RuntimeServiceClient::new(self.services.runtime.clone())
    }
}

pub struct Gateway {
    state: State,
    guard: guard::Guard,
}

impl Gateway {
    /// `address`: where it will listen, so that its own name is let in.
    pub fn build(settings: &Settings, address: SocketAddr, services: Services, tasks: TaskTracker) -> Self {
        Self { state: State { services, tasks }, guard: guard::Guard::new(settings, address) }
    }

    /// Everything, to be served on one port. `host` brings health, reflection, and the roles of this process.
    pub fn routes(self, host: Router) -> Router {
        let rest = Router::new()
            //.merge(openai::routes())
            .merge(management::routes())
            .merge(health::routes())
            .merge(web::routes())
            .with_state(self.state.clone())
            .layer(DefaultBodyLimit::max(BODY_LIMIT));
        let request_id = http::HeaderName::from_static("x-request-id");
        grpc::routes(&self.state.services, host)
            .merge(rest)
            .layer(middleware::from_fn_with_state(self.guard, guard::check))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(PropagateRequestIdLayer::new(request_id.clone()))
            .layer(SetRequestIdLayer::new(request_id, MakeRequestUuid))
    }
}

fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let cause = cause.downcast_ref::<String>().map(String::as_str);
    reply::Failure::from(ServiceError::internal(cause.unwrap_or("a handler panicked"))).into_response()
}
