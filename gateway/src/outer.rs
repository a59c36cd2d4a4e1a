//! What every request passes, outermost first: a request id, a catch for panics, the guard with CORS.

use std::panic::AssertUnwindSafe;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use millm_kit::{ServiceError, panics};
use tower_http::trace::TraceLayer;

use crate::{
    clock,
    failure::{Face, Failure},
    guard::{Allowed, Guard},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Of all headers together. What is much larger the server refuses itself, before it is whole.
const HEAD_LIMIT: usize = 64 << 10;

pub fn wrap(routes: Router, guard: Guard) -> Router {
    routes
        .layer(middleware::from_fn_with_state(guard, allow))
        .layer(middleware::from_fn(survive))
        .layer(TraceLayer::new_for_http())
        .layer(middleware::from_fn(name_request))
}

/// Keeps the caller's id when it is a decent one.
async fn name_request(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).filter(|id| (1..=128).contains(&id.len())).cloned();
    let id = given.unwrap_or_else(|| {
        HeaderValue::from_str(&clock::fresh_id()).expect("hex digits make a header value")
    });
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// A handler that panics answers as its callers read errors.
async fn survive(request: Request, next: Next) -> Response {
    let face = Face::of(request.uri().path(), request.headers());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answer.unwrap_or_else(|panic| face.answer(ServiceError::internal(panics::said(&*panic)).into()))
}

fn check(request: &Request, guard: &Guard) -> Result<Allowed, Failure> {
    let head: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if head > HEAD_LIMIT {
        let why = format!("must be at most {} KiB", HEAD_LIMIT >> 10);
        let error = ServiceError::invalid_argument("headers", why);
        return Err(Failure::with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, error));
    }
    Ok(guard.check(request.uri(), request.headers())?)
}

async fn allow(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let allowed = match check(&request, &guard) {
        Ok(allowed) => allowed,
        Err(failure) => return Face::of(request.uri().path(), request.headers()).answer(failure),
    };
    let Some(origin) = allowed.cross_origin else { return next.run(request).await };
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response =
        if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if preflight {
        allow_methods(headers, wanted);
    } else {
        let exposed = "grpc-status,grpc-message,grpc-status-details-bin,x-request-id,retry-after";
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
    }
    response
}

fn allow_methods(headers: &mut HeaderMap, wanted: Option<HeaderValue>) {
    let methods = HeaderValue::from_static("GET,POST,DELETE");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(wanted) = wanted {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
    }
}
