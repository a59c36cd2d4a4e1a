//! The host of the roles in this process: their routes with health and reflection, their tasks, graceful shutdown.

use std::{
    convert::Infallible,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::ListenerExt as _;
use futures::future::BoxFuture;
use http::Request;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, server::NamedService, service::Routes};
use tonic_health::server::HealthReporter;
use tower::{BoxError, Service};

use crate::{channel::Channel, error::ServiceError};

/// The two stages of a shutdown.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled first: running work may finish, new work is refused.
    pub stopping: CancellationToken,
    /// Cancelled second: nothing is waited for any longer.
    pub forced: CancellationToken,
}

impl Shutdown {
    /// Returns a shutdown that stops at the first SIGTERM or SIGINT, and forces after `drain` or at the second signal.
    ///
    /// Must be called within a tokio runtime.
    pub fn on_signals(drain: Duration) -> Self {
        let shutdown = Self::default();
        let Self { stopping, forced } = shutdown.clone();
        tokio::spawn(async move {
            signal().await;
            tracing::info!(drain_seconds = drain.as_secs(), "stopping; send a second signal to stop at once");
            stopping.cancel();
            tokio::select! {
                () = signal() => tracing::warn!("second signal: stopping at once"),
                () = tokio::time::sleep(drain) => tracing::warn!("drain timeout: stopping at once"),
            }
            forced.cancel();
        });
        shutdown
    }
}

async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return std::future::pending().await;
        };
        tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// Collects the services and tasks of this process. [`Host::serve`] then runs them until shutdown.
pub struct Host {
    /// Health and reflection.
    standard: axum::Router,
    services: axum::Router,
    health: HealthReporter,
    /// Tasks that [`Host::serve`] waits for before it returns.
    pub tasks: TaskTracker,
    /// Tells services and tasks to stop.
    pub shutdown: Shutdown,
}

impl Host {
    /// Returns a host without services.
    ///
    /// # Panics
    ///
    /// Never: the descriptor set of the contract was checked when it was compiled.
    pub fn new(shutdown: Shutdown) -> Self {
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(millm_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let checked = "the descriptor set was checked when it was compiled";
        // The routers that this is merged with have a fallback of their own.
        let standard = Routes::new(health_service)
            .add_service(reflection().build_v1().expect(checked))
            // The reflection client of gRPC for Python asks for this version.
            .add_service(reflection().build_v1alpha().expect(checked))
            .into_axum_router()
            .reset_fallback();
        Self { standard, services: axum::Router::new(), health, tasks: TaskTracker::new(), shutdown }
    }

    /// Mounts a service, marks it as serving, and returns a channel that calls it from this process.
    pub async fn grpc<S>(&mut self, service: S) -> Channel
    where
        S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.health.set_service_status(S::NAME, tonic_health::ServingStatus::Serving).await;
        let path = format!("/{}/{{*rest}}", S::NAME);
        let channel = Channel::local(service);
        self.services =
            std::mem::take(&mut self.services).route_service(&path, serve_channel(channel.clone()));
        channel
    }

    /// Returns the health reporter, for a service that changes its own health.
    pub fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// Returns the routes of health and reflection alone: the gateway forwards the services' calls itself.
    pub fn standard_routes(&self) -> axum::Router {
        self.standard.clone()
    }

    /// Returns the services of this process as native gRPC, with health and reflection. Other calls are UNIMPLEMENTED.
    pub fn routes(&self) -> axum::Router {
        let unknown =
            || async { tonic::Status::unimplemented("unknown service").into_http::<axum::body::Body>() };
        self.standard.clone().merge(self.services.clone()).fallback(unknown)
    }

    /// Serves `routes` on `listener` until shutdown, then waits for the tasks.
    ///
    /// New connections are refused once the host is stopping. Open streams and tasks may go on until it is forced.
    ///
    /// # Errors
    ///
    /// Fails if the server cannot accept connections any more.
    pub async fn serve(self, listener: TcpListener, routes: axum::Router) -> std::io::Result<()> {
        let Shutdown { stopping, forced } = self.shutdown;
        let health = self.health;
        let until_stopping = {
            let stopping = stopping.clone();
            async move {
                stopping.cancelled().await;
                health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
            }
        };
        let listener = listener.tap_io(|tcp| {
            // Messages with single tokens are small and must not wait for more.
            let _ = tcp.set_nodelay(true);
        });
        let service = routes.into_make_service_with_connect_info::<SocketAddr>();
        let server = axum::serve(listener, service).with_graceful_shutdown(until_stopping);
        forced.run_until_cancelled(async { server.await }).await.transpose()?;
        self.tasks.close();
        forced.run_until_cancelled(self.tasks.wait()).await;
        Ok(())
    }
}

/// Returns a route that forwards calls to `channel`, wherever its service runs.
///
/// A service that cannot be reached answers with the gRPC status UNAVAILABLE.
pub fn serve_channel(channel: Channel) -> ServeChannel {
    ServeChannel(channel)
}

/// The route that [`serve_channel`] returns.
#[derive(Debug, Clone)]
pub struct ServeChannel(Channel);

impl<B> Service<Request<B>> for ServeChannel
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut channel = self.0.clone();
        Box::pin(async move {
            let response = async {
                std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
                channel.call(request.map(Body::new)).await
            };
            Ok(response.await.unwrap_or_else(|cause| {
                tracing::warn!("cannot reach the service: {cause}");
                tonic::Status::from(ServiceError::service_unavailable("service")).into_http()
            }))
        })
    }
}
