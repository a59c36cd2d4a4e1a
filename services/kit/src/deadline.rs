//! gRPC deadlines: a call that names one (`grpc-timeout`) ends with DEADLINE_EXCEEDED when it passes, and its work
//! is dropped, streams included.
//!
//! tonic's own server does this per connection; services here are also called without one.

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

use crate::{Reason, ServiceError};

/// A middleware for gRPC routes.
pub async fn enforce(request: Request, next: Next) -> Response {
    let Some(limit) = request.headers().get("grpc-timeout").and_then(parse) else {
        return next.run(request).await;
    };
    let deadline = Instant::now() + limit;
    match timeout_at(deadline, next.run(request)).await {
        Err(_) => exceeded().into_http(),
        Ok(response) => response
            .map(|body| Body::new(Limited { body: Some(body), sleep: Box::pin(sleep_until(deadline)) })),
    }
}

fn exceeded() -> Status {
    ServiceError::new(Reason::Deadline, "The deadline of the call has passed.").into()
}

/// `100m`, `5S`: at most eight digits and a unit (the gRPC-over-HTTP2 specification).
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

/// A body that ends with the status of a passed deadline.
struct Limited {
    /// Dropped at the deadline: that is what stops the work.
    body: Option<Body>,
    sleep: Pin<Box<Sleep>>,
}

impl HttpBody for Limited {
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
        // Our own status always fits a header.
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
    fn timeouts_are_read_as_the_specification_has_them() {
        let parse = |text: &str| super::parse(&HeaderValue::from_str(text).unwrap());
        assert_eq!(parse("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        for bad in ["", "S", "100", "123456789S", "-1S", "1x", "1é"] {
            let value = HeaderValue::from_bytes(bad.as_bytes()).unwrap();
            assert_eq!(super::parse(&value), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_stream_ends_with_the_status_and_its_work_is_dropped() {
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

    /// One item, then nothing for ever; holds `alive` as long as somebody listens.
    fn async_stream(
        alive: Option<tokio::sync::oneshot::Sender<()>>,
    ) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
        futures::stream::unfold((alive, false), |(alive, said)| async move {
            if said {
                std::future::pending::<()>().await;
            }
            Some((Ok(Bytes::from_static(b"first")), (alive, true)))
        })
    }
}
