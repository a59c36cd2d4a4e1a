//! Caught panics: their messages, and the gRPC status of a call that panicked.

use std::{any::Any, panic::AssertUnwindSafe};

use axum::{extract::Request, middleware::Next, response::Response};
use futures::FutureExt as _;
use tonic::Status;

use crate::error::ServiceError;

/// Returns the message of a caught panic.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// Answers INTERNAL to a gRPC call that panics. Other calls are not affected.
pub(crate) async fn catch(request: Request, next: Next) -> Response {
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    response.unwrap_or_else(|panic| Status::from(ServiceError::internal(message(&*panic))).into_http())
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware, routing::get};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_panicking_handler_answers_internal() {
        async fn panicking() {
            panic!("injected {}", 1);
        }
        let routes = Router::new().route("/", get(panicking));
        let routes: Router = routes.layer(middleware::from_fn(catch));
        let response = routes.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "13");
    }

    #[test]
    fn messages_of_panics() {
        let text = |panic: Box<dyn Any + Send>| message(&*panic).to_owned();
        assert_eq!(text(Box::new("a")), "a");
        assert_eq!(text(Box::new("b".to_owned())), "b");
        assert_eq!(text(Box::new(7)), "a panic without a message");
    }
}
