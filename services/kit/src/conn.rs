//! A connection to a service: a network channel, or the service itself in this process. One process and four
//! processes run the same code.

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
    transport::{Channel, Endpoint},
};
use tower::{BoxError, Service, ServiceExt as _};
use url::Url;

/// Give it to a generated client: `CatalogServiceClient::new(conn.clone())`. Cheap to clone.
#[derive(Clone)]
pub struct Conn(Inner);

#[derive(Clone)]
enum Inner {
    Remote(Channel),
    Local(axum::Router),
}

impl Conn {
    /// Connects when first used, and again whenever the other side comes back.
    pub fn remote(url: &Url) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(url.to_string())?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .user_agent(concat!("millm/", env!("CARGO_PKG_VERSION")))?;
        Ok(Self(Inner::Remote(endpoint.connect_lazy())))
    }

    /// Calls `service` without a socket.
    pub fn local<S>(service: S) -> Self
    where
        S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        let deadline = axum::middleware::from_fn(crate::deadline::enforce);
        let survival = axum::middleware::from_fn(crate::panics::catch);
        let judgement = axum::middleware::from_fn(crate::wire::judge);
        let routes = Routes::new(service).into_axum_router();
        Self(Inner::Local(routes.layer(judgement).layer(survival).layer(deadline)))
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Inner::Remote(_) => "Conn::remote",
            Inner::Local(_) => "Conn::local",
        })
    }
}

impl Service<Request<Body>> for Conn {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            Inner::Remote(channel) => channel.poll_ready(cx).map_err(Into::into),
            Inner::Local(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match &mut self.0 {
            Inner::Remote(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { answer.await.map_err(Into::into) })
            }
            Inner::Local(router) => {
                let answer = router.clone().oneshot(request.map(axum::body::Body::new));
                Box::pin(async move {
                    let Ok(response) = answer.await;
                    Ok(response.map(Body::new))
                })
            }
        }
    }
}
