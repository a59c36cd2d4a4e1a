//! One port for everything: native gRPC and gRPC-web, OpenAI's REST API, the management REST API with its events, and the
//! web app. The gateway owns no state: what it shows it asks the three services, over their [`Channel`]s.
//!
//! Every request gets an id, passes the [`guard`] (Host and Origin), and is answered even if a handler panics.

#![warn(missing_docs, clippy::missing_errors_doc, clippy::too_many_lines)]

mod body;
mod error;
mod extract;
mod grpc;
mod guard;
mod health;
mod ids;
mod inspection;
mod management;
mod middleware;
mod openai;
mod openapi;
mod state;
mod watch_models;
mod web;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::DefaultBodyLimit};
use millm_kit::{Channel, Host, Settings};

use guard::Guard;
use openai::AnswerMemory;
use state::AppState;

/// The largest body of a REST request, in bytes.
pub const BODY_LIMIT: usize = 8 << 20;

/// Channels to the three roles, wherever they run. Each reaches all services of its role ([`Channel::join`]).
#[derive(Debug, Clone)]
pub struct Services {
    /// Knows which models, datasets and templates exist.
    pub catalog: Channel,
    /// Makes models and reads datasets.
    pub downloader: Channel,
    /// Runs models and looks inside them.
    pub runtime: Channel,
}

/// All APIs, not served yet.
pub struct Gateway {
    app: Arc<AppState>,
    guard: Guard,
}

impl Gateway {
    /// Builds the gateway. `address` is where it listens: requests may use it as their Host.
    pub fn build(settings: &Settings, address: SocketAddr, services: Services, host: &Host) -> Self {
        let app = AppState {
            services,
            parallel: (settings.parallel_requests as usize).max(1),
            held: AnswerMemory::default(),
            stopping: host.shutdown.stopping.clone(),
            tasks: host.tasks.clone(),
        };
        Self { app: Arc::new(app), guard: Guard::new(settings, address) }
    }

    /// Returns all routes. `host_routes` have gRPC health and reflection.
    pub fn routes(self, host_routes: Router) -> Router {
        let grpc = grpc::routes(&self.app, host_routes.clone());
        let routes = Router::new()
            .merge(openai::routes())
            .merge(management::routes())
            .merge(inspection::routes())
            .merge(openapi::routes())
            .merge(health::routes(host_routes))
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .method_not_allowed_fallback(error::method_not_allowed)
            .with_state(self.app)
            .merge(grpc.known)
            .fallback_service(web::routes(grpc.unknown));
        middleware::wrap(routes, self.guard)
    }
}
