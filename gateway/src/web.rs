//! The web app, embedded: hashed assets for a year, the page itself never cached, and a Content-Security-Policy
//! that lets it talk to this server alone.

use axum::{
    Router,
    response::{Html, IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use millm_kit::ServiceError;
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::{State, reply::Failure};

#[derive(RustEmbed)]
#[folder = "../web/dist"]
#[allow_missing = true]
struct App;

const POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const NOT_BUILT: &str = "<!doctype html><title>miLLM</title><h1>miLLM is running</h1>\
    <p>This binary was built without the web app: <code>make build</code> includes it. \
    The API is at <code>/v1</code> and <code>/api</code>.</p>";

pub fn routes() -> Router<State> {
    Router::new().fallback(serve)
}

async fn serve(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if headers.get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("unknown service").into_http::<axum::body::Body>();
    }
    let path = uri.path().trim_start_matches('/');
    let api = ["api/", "v1/", "millm.", "grpc."].iter().any(|prefix| path.starts_with(prefix));
    if api || !matches!(method, Method::GET | Method::HEAD) {
        return Failure::from(ServiceError::not_found(format!("{method} {}", uri.path()))).into_response();
    }
    if let Some(file) = App::get(path) {
        return answer(path, file);
    }
    // A page of the app's own routing has no extension; anything else is simply not there.
    if path.contains('.') {
        return StatusCode::NOT_FOUND.into_response();
    }
    match App::get("index.html") {
        Some(page) => answer("index.html", page),
        None => Html(NOT_BUILT).into_response(),
    }
}

fn answer(path: &str, file: EmbeddedFile) -> Response {
    let cache =
        if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let mut response = file.data.into_response();
    let headers = response.headers_mut();
    if let Ok(mime) = HeaderValue::from_str(file.metadata.mimetype()) {
        headers.insert(header::CONTENT_TYPE, mime);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
