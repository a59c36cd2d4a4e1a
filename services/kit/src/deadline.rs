//! gRPC deadlines: a call with a `grpc-timeout` header fails with DEADLINE_EXCEEDED when the time is over, and its
//! work is dropped, streams included.
//!
//! tonic's own server enforces deadlines on connections. Services here are also called without a connection.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::Status;

use crate::error::{Reason, ServiceError};

/// Drops the work of a call when its deadline passes. A middleware for gRPC routes.
pub(crate) async fn enforce(request: Request, next: Next) -> Response {
    let Some(limit) = request.headers().get("grpc-timeout").and_then(parse) else {
        return next.run(request).await;
    };
    let deadline = Instant::now() + limit;
    match timeout_at(deadline, next.run(request)).await {
        Err(_) => exceeded().into_http(),
        Ok(response) => response
            .map(|body| Body::new(DeadlineBody { body: Some(body), sleep: Box::pin(sleep_until(deadline)) })),
    }
}

fn exceeded() -> Status {
    ServiceError::new(Reason::Deadline, "The deadline of the call has passed.").into()
}

/// Parses `100m` or `5S`: at most eight digits and a unit.
///
/// Source: the TimeoutValue and TimeoutUnit rules of "gRPC over HTTP2".
fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// A response body that ends with DEADLINE_EXCEEDED at its deadline.
struct DeadlineBody {
    /// Dropped at the deadline, which stops the work behind it.
    body: Option<Body>,
    sleep: Pin<Box<Sleep>>,
}

impl HttpBody for DeadlineBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        std::task::ready!(this.sleep.as_mut().poll(cx));
        this.body = None;
        let mut trailers = HeaderMap::new();
        // This status always fits a header.
        let _ = exceeded().add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, middleware::from_fn, routing::post};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    #[test]
    fn timeouts_are_parsed_as_the_specification_says() {
        let parse = |text: &str| super::parse(&HeaderValue::from_str(text).unwrap());
        assert_eq!(parse("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        for bad in ["", "S", "100", "123456789S", "-1S", "1x", "1é"] {
            let value = HeaderValue::from_bytes(bad.as_bytes()).unwrap();
            assert_eq!(super::parse(&value), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_stream_ends_with_deadline_exceeded_and_its_work_is_dropped() {
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let alive = std::sync::Mutex::new(Some(alive));
        let alive = std::sync::Arc::new(alive);
        let handler = move || async move { Body::from_stream(async_stream(alive.lock().unwrap().take())) };
        let router = Router::new().route("/x", post(handler)).layer(from_fn(enforce));
        let request = Request::post("/x").header("grpc-timeout", "50m").body(Body::empty()).unwrap();
        let collected = router.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "4");
        assert_eq!(collected.to_bytes(), "first");
        gone.await.unwrap_err();
    }

    /// Yields one item and then waits forever. Holds `alive` until it is dropped.
    fn async_stream(
        alive: Option<tokio::sync::oneshot::Sender<()>>,
    ) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
        futures::stream::unfold((alive, false), |(alive, sent)| async move {
            if sent {
                std::future::pending::<()>().await;
            }
            Some((Ok(Bytes::from_static(b"first")), (alive, true)))
        })
    }
}
