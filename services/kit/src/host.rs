//! What every role lives in: its routes with health and reflection, its tasks, and an orderly end.

use std::{
    convert::Infallible,
    future::Future,
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

use crate::Conn;

/// The two stages of an end: `stopping` lets running work finish, `forced` does not wait any longer.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    pub stopping: CancellationToken,
    pub forced: CancellationToken,
}

impl Shutdown {
    /// Stops at the first SIGTERM or SIGINT; forces after `drain`, or at the second signal.
    pub fn on_signals(drain: Duration) -> Self {
        let shutdown = Self::default();
        let Self { stopping, forced } = shutdown.clone();
        tokio::spawn(async move {
            signal().await;
            tracing::info!(drain_seconds = drain.as_secs(), "stopping; a second signal ends at once");
            stopping.cancel();
            tokio::select! {
                () = signal() => tracing::warn!("second signal: ending at once"),
                () = tokio::time::sleep(drain) => tracing::warn!("drain timeout: ending"),
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

/// Collects what runs in this process; [`Host::serve`] then runs it until the end.
pub struct Host {
    /// Health and reflection.
    standard: axum::Router,
    services: axum::Router,
    health: HealthReporter,
    pub tasks: TaskTracker,
    pub shutdown: Shutdown,
}

impl Host {
    pub fn new(shutdown: Shutdown) -> Self {
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(millm_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let checked = "the descriptor set was checked when it was compiled";
        // Merged with routers that have a fallback of their own.
        let standard = Routes::new(health_service)
            .add_service(reflection().build_v1().expect(checked))
            // What Python's client asks.
            .add_service(reflection().build_v1alpha().expect(checked))
            .into_axum_router()
            .reset_fallback();
        Self { standard, services: axum::Router::new(), health, tasks: TaskTracker::new(), shutdown }
    }

    /// Mounts a service, marks it as serving, and gives the way to call it from this process.
    pub async fn grpc<S>(&mut self, service: S) -> Conn
    where
        S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.health.set_service_status(S::NAME, tonic_health::ServingStatus::Serving).await;
        let path = format!("/{}/{{*rest}}", S::NAME);
        let conn = Conn::local(service);
        self.services = std::mem::take(&mut self.services).route_service(&path, serve_conn(conn.clone()));
        conn
    }

    /// For a service that changes its own health.
    pub fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// Health and reflection alone: the gateway forwards the services' calls itself.
    pub fn standard_routes(&self) -> axum::Router {
        self.standard.clone()
    }

    /// The roles of this process as native gRPC, with health and reflection; other calls are UNIMPLEMENTED.
    pub fn routes(&self) -> axum::Router {
        let unknown =
            || async { tonic::Status::unimplemented("unknown service").into_http::<axum::body::Body>() };
        self.standard.clone().merge(self.services.clone()).fallback(unknown)
    }

    /// Serves `routes` until the end: no new connections once stopping, open streams until forced; then waits
    /// for the tasks (until forced).
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
            // Tokens are small and must leave at once.
            let _ = tcp.set_nodelay(true);
        });
        let service = routes.into_make_service_with_connect_info::<SocketAddr>();
        let server = axum::serve(listener, service).with_graceful_shutdown(until_stopping);
        unless(&forced, async { server.await }).await.transpose()?;
        self.tasks.close();
        unless(&forced, self.tasks.wait()).await;
        Ok(())
    }
}

async fn unless<T>(forced: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! { done = work => Some(done), () = forced.cancelled() => None }
}

/// A [`Conn`] as a route: what the gateway forwards to, wherever the service lives. A service that cannot be
/// reached answers UNAVAILABLE in gRPC's own way.
pub fn serve_conn(conn: Conn) -> ServeConn {
    ServeConn(conn)
}

/// Made by [`serve_conn`].
#[derive(Debug, Clone)]
pub struct ServeConn(Conn);

impl<B> Service<Request<B>> for ServeConn
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
        let mut conn = self.0.clone();
        Box::pin(async move {
            let answer = async {
                std::future::poll_fn(|cx| conn.poll_ready(cx)).await?;
                conn.call(request.map(Body::new)).await
            };
            Ok(answer.await.unwrap_or_else(|cause| {
                tracing::warn!("service unreachable: {cause}");
                tonic::Status::from(crate::ServiceError::service_unavailable("service")).into_http()
            }))
        })
    }
}
