//! gRPC channels: a network connection to a service, or a direct call into the same process.
//!
//! The same client code therefore runs with all roles in one process and with one process for each role.

use std::{
    convert::Infallible,
    fmt,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{
    body::Body,
    server::NamedService,
    service::Routes,
    transport::{self, Endpoint},
};
use tower::{BoxError, Service, ServiceExt as _};
use url::Url;

use crate::{deadline, decode_errors, panics, request_id};

/// A way to call a gRPC service, wherever it runs. Cheap to clone.
///
/// Generated clients take it: `CatalogServiceClient::new(channel.clone())`.
#[derive(Clone)]
pub struct Channel(Inner);

#[derive(Clone)]
enum Inner {
    Remote(transport::Channel),
    Local(axum::Router),
}

impl Channel {
    /// Returns a channel to the service at `url`. It connects on first use and reconnects after a failure.
    ///
    /// # Errors
    ///
    /// Fails if `url` is not a valid endpoint address.
    pub fn remote(url: &Url) -> Result<Self, transport::Error> {
        let endpoint = Endpoint::from_shared(url.to_string())?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .user_agent(concat!("millm/", env!("CARGO_PKG_VERSION")))?;
        Ok(Self(Inner::Remote(endpoint.connect_lazy())))
    }

    /// Returns a channel that calls `service` in this process, without a socket.
    pub fn local<S>(service: S) -> Self
    where
        S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        let routes = Routes::new(service).into_axum_router();
        // The last layer is the outermost: all log under the request's id, and the deadline covers the other two.
        let routes = routes
            .layer(axum::middleware::from_fn(decode_errors::correct_status))
            .layer(axum::middleware::from_fn(panics::catch))
            .layer(axum::middleware::from_fn(deadline::enforce))
            .layer(axum::middleware::from_fn(request_id::enter));
        Self(Inner::Local(routes))
    }

    /// Returns a channel that reaches the services of `other` too: a role with several services is one channel, as it is
    /// one address when it runs in another process.
    ///
    /// # Panics
    ///
    /// Panics if both channels have the same service in this process.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Inner::Local(ours), Inner::Local(theirs)) => {
                // Only one of two merged routers may have a fallback.
                Self(Inner::Local(ours.merge(theirs.reset_fallback())))
            }
            // A connection reaches every service of its process.
            (connected, _) => Self(connected),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Inner::Remote(_) => "Channel::remote",
            Inner::Local(_) => "Channel::local",
        })
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            Inner::Remote(channel) => channel.poll_ready(cx).map_err(Into::into),
            Inner::Local(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(id) = request_id::current() {
            request.headers_mut().insert(request_id::HEADER, id.header_value());
        }
        match &mut self.0 {
            Inner::Remote(channel) => {
                let response = channel.call(request);
                Box::pin(async move { response.await.map_err(Into::into) })
            }
            Inner::Local(router) => {
                let response = router.clone().oneshot(request.map(axum::body::Body::new));
                Box::pin(async move {
                    let Ok(response) = response.await;
                    Ok(response.map(Body::new))
                })
            }
        }
    }
}
