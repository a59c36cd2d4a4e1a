//! The id of the request that a task serves: the caller's `x-request-id`, or the gateway's own. [`Channel`](crate::Channel)
//! sends it on as metadata, services log it in a span, and errors name it.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tracing::{Instrument as _, Span};

/// The header, and the key of the gRPC metadata.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

const LONGEST: usize = 128;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// An id of 1 to 128 visible ASCII characters. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Returns a random id: the 32 hex digits of a UUID (version 4).
    pub fn random() -> Self {
        let text = uuid::Uuid::new_v4().simple().to_string();
        Self(HeaderValue::try_from(text).expect("hex digits make a header value"))
    }

    /// Returns the id that the headers carry; `None` when there is none, or one that no log should repeat.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(HEADER)?;
        let sane = (1..=LONGEST).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
        sane.then(|| Self(value.clone()))
    }

    /// Returns the id as a header's value.
    pub fn header_value(&self) -> HeaderValue {
        self.0.clone()
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the id of the request that this task serves, when it serves one.
pub fn current() -> Option<RequestId> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Runs a future that outlives its caller's task under the id and the span of the request at hand.
///
/// `tokio::spawn(request_id::inherit(work))` logs as the request does that started the work.
pub fn inherit<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let (id, span) = (current(), Span::current());
    async move {
        match id {
            Some(id) => CURRENT.scope(id, future).await,
            None => future.await,
        }
    }
    .instrument(span)
}

/// A middleware: the request and the body of its answer run under the id of the `x-request-id` header and in a span
/// that has it. Does nothing without the header, or where the caller runs in this process under the same id.
pub async fn enter(request: Request, next: Next) -> Response {
    let Some(id) = RequestId::from_headers(request.headers()).filter(|id| current().as_ref() != Some(id))
    else {
        return next.run(request).await;
    };
    let span = tracing::info_span!("request", request_id = %id, path = request.uri().path());
    let response = CURRENT.scope(id.clone(), next.run(request)).instrument(span.clone()).await;
    response.map(|body| Body::new(Scoped { body, id, span }))
}

/// A body that is made under the id of its request.
struct Scoped {
    body: Body,
    id: RequestId,
    span: Span,
}

impl HttpBody for Scoped {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, id, span } = &mut *self;
        let _entered = span.enter();
        CURRENT.sync_scope(id.clone(), || Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware::from_fn, routing::get};
    use futures::stream;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn ids_that_no_log_should_repeat_are_not_taken() {
        let read = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(value).unwrap());
            RequestId::from_headers(&headers).map(|id| id.to_string())
        };
        assert_eq!(read(b"mine/7:a-b").as_deref(), Some("mine/7:a-b"));
        for bad in [&b""[..], b"two words", "é".as_bytes(), b"\xff", &[b'x'; LONGEST + 1]] {
            assert_eq!(read(bad), None);
        }
        assert_eq!(RequestId::from_headers(&HeaderMap::new()), None);
        assert_eq!(RequestId::random().as_str().len(), 32);
    }

    #[tokio::test]
    async fn handler_and_body_know_the_id() {
        let say = || current().map_or_else(|| "none".to_owned(), |id| id.to_string());
        let handler = move || async move {
            let body = stream::once(async move { Ok::<_, std::io::Error>(say()) });
            (say(), Body::from_stream(body)).1
        };
        let router = Router::new().route("/", get(handler)).layer(from_fn(enter));
        let ask = async |request: http::request::Builder| {
            let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        };
        assert_eq!(ask(Request::get("/").header(HEADER, "mine")).await, "mine");
        assert_eq!(ask(Request::get("/")).await, "none");
        let inherited = CURRENT.sync_scope(RequestId::random(), || (say(), inherit(async move { say() })));
        assert_eq!(tokio::spawn(inherited.1).await.unwrap(), inherited.0);
    }
}
