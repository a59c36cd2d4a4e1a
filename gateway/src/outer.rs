//! What every request passes, outermost first: a request id, a catch for panics, the guard with CORS.

use std::any::Any;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use millm_kit::ServiceError;
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};

use crate::{
    clock,
    failure::{Face, Failure},
    guard::Guard,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub fn wrap(routes: Router, guard: Guard) -> Router {
    routes
        .layer(middleware::from_fn_with_state(guard, allow))
        .layer(CatchPanicLayer::custom(panicked))
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

#[expect(clippy::needless_pass_by_value, reason = "the signature that the layer calls")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panic");
    Face::Management.answer(ServiceError::internal(text).into())
}

async fn allow(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let allowed = match guard.check(request.uri(), request.headers()) {
        Ok(allowed) => allowed,
        Err(error) => {
            let face = Face::of(request.uri().path(), request.headers());
            return face.answer(Failure::from(error));
        }
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
