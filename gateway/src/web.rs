//! The web app, embedded: its files, and its page for every path that is a page. Other unknown paths are answered with an
//! error in the words of their protocol.

use std::{borrow::Cow, fmt::Write as _};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{Html, IntoResponse as _, Response},
};
use millm_kit::{ServiceError, format::excerpt};
use rust_embed::{EmbeddedFile, RustEmbed};
use tower::ServiceExt as _;
use tower_http::compression::CompressionLayer;

use crate::error::{Failure, Protocol};

#[derive(RustEmbed)]
#[folder = "../web/dist"]
#[allow_missing = true]
struct Files;

const PAGE: &str = "index.html";

/// Allows scripts and connections of this origin alone, and no frame around the page.
const POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src 'self'; object-src 'none'; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const NOT_BUILT: &str = "<!doctype html><meta charset=utf-8><title>miLLM</title><h1>miLLM is running</h1>\
    <p>This build has no web page. Build it with <code>npm ci &amp;&amp; npm run build</code> in \
    <code>web/</code>, then build miLLM again. The <a href=/v1/models>API</a> works without.</p>";

/// Returns the routes; `unknown_grpc` answers calls of services that do not exist.
pub fn routes(unknown_grpc: Router) -> Router {
    Router::new().fallback(serve).with_state(unknown_grpc).layer(CompressionLayer::new())
}

async fn serve(State(unknown_grpc): State<Router>, request: Request) -> Response {
    let path = request.uri().path();
    let protocol = Protocol::of(path, request.headers());
    if protocol == Protocol::Grpc {
        let Ok(response) = unknown_grpc.oneshot(request).await;
        return response;
    }
    let file = path.trim_start_matches('/');
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_api = protocol == Protocol::OpenAi || path == "/api" || path.starts_with("/api/");
    if reads && !is_api {
        if file != PAGE
            && let Some(found) = Files::get(file)
        {
            return answer(file, found, request.headers());
        }
        if is_page(file, request.headers()) {
            return match Files::get(PAGE) {
                Some(page) => answer(PAGE, page, request.headers()),
                None => Html(NOT_BUILT).into_response(),
            };
        }
    }
    Failure::from(ServiceError::not_found(format!("{} {}", request.method(), excerpt(path)))).into_response()
}

/// Returns whether a path is a page of the app, not a file that is missing.
fn is_page(file: &str, headers: &HeaderMap) -> bool {
    if file.is_empty() || file == PAGE {
        return true;
    }
    let accept = headers.get(header::ACCEPT).map_or(&b""[..], HeaderValue::as_bytes);
    let wants_html = String::from_utf8_lossy(accept).contains("text/html");
    wants_html && !file.starts_with("assets/")
}

fn answer(path: &str, file: EmbeddedFile, asked: &HeaderMap) -> Response {
    let hash = file.metadata.sha256_hash();
    let mut etag = String::from("W/\"");
    for byte in &hash[..12] {
        let _ = write!(etag, "{byte:02x}");
    }
    etag.push('"');
    // Names under assets/ have a hash of their content.
    let lasting = path.starts_with("assets/");
    let cache = if lasting { "public, max-age=31536000, immutable" } else { "no-cache" };
    let same = asked.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes());
    let (status, body) = if same {
        (StatusCode::NOT_MODIFIED, Body::empty())
    } else {
        let body = match file.data {
            Cow::Borrowed(bytes) => Body::from(bytes),
            Cow::Owned(bytes) => Body::from(bytes),
        };
        (StatusCode::OK, body)
    };
    let headers = [
        (header::CONTENT_TYPE, file.metadata.mimetype().to_owned()),
        (header::CACHE_CONTROL, cache.to_owned()),
        (header::ETAG, etag),
        (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (status, headers, body).into_response()
}
