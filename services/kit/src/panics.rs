//! Panics that were caught: what they said, and the answer of a gRPC call that had one.

use std::{any::Any, panic::AssertUnwindSafe};

use axum::{extract::Request, middleware::Next, response::Response};
use futures::FutureExt as _;
use tonic::Status;

use crate::ServiceError;

/// What a caught panic said.
pub fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}

/// A middleware for gRPC routes: a call that panics is INTERNAL, and no other call notices.
pub(crate) async fn catch(request: Request, next: Next) -> Response {
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answer.unwrap_or_else(|panic| Status::from(ServiceError::internal(said(&*panic))).into_http())
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware, routing::get};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        async fn panicking() {
            panic!("injected {}", 1);
        }
        let routes = Router::new().route("/", get(panicking));
        let routes: Router = routes.layer(middleware::from_fn(catch));
        let answer = routes.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "13");
    }

    #[test]
    fn words_of_a_panic() {
        let words = |panic: Box<dyn Any + Send>| said(&*panic).to_owned();
        assert_eq!(words(Box::new("a")), "a");
        assert_eq!(words(Box::new("b".to_owned())), "b");
        assert_eq!(words(Box::new(7)), "a panic without words");
    }
}
