//! One port for everything: native gRPC and gRPC-web, OpenAI's REST, the management REST with its events, and the
//! web app. Owns no state: what it shows it asks the three services, over their [`Conn`]s.
//!
//! Every request passes the [`guard`] (Host and Origin), gets a request id, and is answered even if a handler
//! panics.

mod app;
mod body;
mod clock;
mod failure;
mod grpc;
mod guard;
mod health;
mod manage;
mod openai;
mod outer;
mod web;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::DefaultBodyLimit};
use millm_kit::{Conn, Host, Settings};

use app::App;
use guard::Guard;
use openai::Held;

/// The largest request body of the REST faces.
pub const BODY_LIMIT: usize = 8 << 20;

/// The ways to the three services, wherever they live.
#[derive(Debug, Clone)]
pub struct Services {
    pub catalog: Conn,
    pub downloader: Conn,
    pub runtime: Conn,
}

/// All faces, not served yet.
pub struct Gateway {
    app: Arc<App>,
    guard: Guard,
}

impl Gateway {
    /// `address` is where the gateway listens: its name is one that requests may use.
    pub fn build(settings: &Settings, address: SocketAddr, services: Services, host: &Host) -> Self {
        let app = App {
            services,
            parallel: (settings.parallel_requests as usize).max(1),
            held: Held::default(),
            stopping: host.shutdown.stopping.clone(),
            tasks: host.tasks.clone(),
        };
        Self { app: Arc::new(app), guard: Guard::new(settings, address) }
    }

    /// `host_routes` have gRPC health and reflection.
    pub fn routes(self, host_routes: Router) -> Router {
        let grpc = grpc::routes(&self.app.services, host_routes.clone());
        let routes = Router::new()
            .merge(openai::routes())
            .merge(manage::routes())
            .merge(health::routes(host_routes))
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .method_not_allowed_fallback(failure::wrong_method)
            .with_state(self.app)
            .merge(grpc.known)
            .fallback_service(web::routes(grpc.unknown));
        outer::wrap(routes, self.guard)
    }
}
