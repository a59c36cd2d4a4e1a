//! The layers that every request passes, outermost first: its id, its log span, the rendering of failures, the guard, CORS,
//! and a catch for panics.

use std::time::Duration;

use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderName, HeaderValue, Method, StatusCode,
        header::{self, HeaderMap},
        request::Parts,
    },
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use millm_kit::{
    ServiceError,
    request_id::{self, RequestId},
};
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
    request_id::{MakeRequestId, PropagateRequestIdLayer, SetRequestIdLayer},
    trace::TraceLayer,
};

use crate::{
    error::{self, Failure},
    guard::Guard,
};

/// Bytes of all headers together. Hyper refuses much larger heads itself, before they are complete.
const HEAD_LIMIT: usize = 64 << 10;

/// Headers of answers that pages of other origins may read.
const EXPOSED: [HeaderName; 8] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    request_id::HEADER,
    header::RETRY_AFTER,
    header::CONTENT_RANGE,
    header::CONTENT_DISPOSITION,
    header::ETAG,
];

/// Wraps all routes.
pub fn wrap(routes: Router, guard: Guard) -> Router {
    let layers = ServiceBuilder::new()
        .layer(middleware::from_fn(drop_foreign_id))
        .layer(SetRequestIdLayer::new(request_id::HEADER, RandomId))
        .layer(PropagateRequestIdLayer::new(request_id::HEADER))
        .layer(middleware::from_fn(request_id::enter))
        .layer(TraceLayer::new_for_http())
        .layer(middleware::from_fn(error::render))
        .layer(middleware::from_fn_with_state(guard.clone(), check))
        .layer(cors(guard))
        .layer(CatchPanicLayer::custom(Failure::of_panic));
    routes.layer(layers)
}

/// Makes the ids of requests that bring none.
#[derive(Debug, Clone, Copy)]
struct RandomId;

impl MakeRequestId for RandomId {
    fn make_request_id<B>(
        &mut self,
        _: &axum::http::Request<B>,
    ) -> Option<tower_http::request_id::RequestId> {
        Some(tower_http::request_id::RequestId::new(RequestId::random().header_value()))
    }
}

/// Forgets an id that no log should repeat: the request gets one of ours.
async fn drop_foreign_id(mut request: Request, next: Next) -> Response {
    if RequestId::from_headers(request.headers()).is_none() {
        request.headers_mut().remove(request_id::HEADER);
    }
    next.run(request).await
}

/// Refuses heads that are too large, and names and origins that the [`Guard`] does not know.
async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let checked = check_head(request.headers())
        .and_then(|()| Ok(guard.check(request.uri(), request.headers()).map(drop)?));
    match checked {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

fn check_head(headers: &HeaderMap) -> Result<(), Failure> {
    let head: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if head <= HEAD_LIMIT {
        return Ok(());
    }
    let why = format!("must be at most {} KiB", HEAD_LIMIT >> 10);
    let error = ServiceError::invalid_argument("headers", why);
    Err(Failure::with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, error))
}

/// Tells pages of the origins that the [`Guard`] allows that they may read the answers.
fn cors(guard: Guard) -> CorsLayer {
    let is_allowed = move |_: &HeaderValue, request: &Parts| {
        let allowed = guard.check(&request.uri, &request.headers);
        allowed.is_ok_and(|allowed| allowed.cross_origin.is_some())
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_allowed))
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(Duration::from_secs(600))
}
