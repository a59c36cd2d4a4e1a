//! Who may call: requests must name this server as their host, and a web page must be its own or an allowed one.
//!
//! A server on loopback is reachable by every page a browser opens (DNS rebinding, cross-site posts); these two
//! checks are what keeps them out. Programs send no Origin and pass.

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use millm_kit::{Reason, ServiceError, Settings};

use crate::reply::Failure;

#[derive(Clone)]
pub struct Guard(Arc<Allowed>);

struct Allowed {
    /// Lower case, without port.
    hosts: HashSet<String>,
    any_host: bool,
    /// `https://app.example`, lower case.
    origins: HashSet<String>,
    any_origin: bool,
    port: u16,
}

impl Guard {
    pub fn new(settings: &Settings, address: SocketAddr) -> Self {
        let mut hosts: HashSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        if !address.ip().is_unspecified() {
            hosts.insert(address.ip().to_string());
        }
        let lower = |list: &[String]| list.iter().map(|s| s.trim_end_matches('/').to_ascii_lowercase()).collect();
        let (named, origins): (HashSet<String>, HashSet<String>) =
            (lower(&settings.allowed_hosts), lower(&settings.allowed_origins));
        // Told to listen on every address without saying under which names: the network is trusted to reach it.
        let any_host = named.contains("*") || address.ip().is_unspecified() && named.is_empty();
        hosts.extend(named);
        let any_origin = origins.contains("*");
        Self(Arc::new(Allowed { hosts, any_host, origins, any_origin, port: address.port() }))
    }

    fn host_ok(&self, host: &str) -> bool {
        self.0.any_host || self.0.hosts.contains(&name_of(host).to_ascii_lowercase())
    }

    /// The page's origin is this very server (as the request names it), one of its loopback names, or allowed.
    fn origin_ok(&self, origin: &str, host: &str) -> bool {
        if self.0.any_origin || self.0.origins.contains(&origin.to_ascii_lowercase()) {
            return true;
        }
        let Some(authority) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else {
            return false;
        };
        if authority.eq_ignore_ascii_case(host) {
            return true;
        }
        let same_port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()) == Some(self.0.port);
        same_port && !self.0.any_host && self.host_ok(authority)
    }
}

/// `[::1]:80` → `::1`, `localhost:80` → `localhost`.
fn name_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.rsplit_once(':').map_or(authority, |(name, _)| name),
    }
}

fn host_of<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let header = headers.get(header::HOST).map(|h| h.to_str().unwrap_or_default());
    header.or_else(|| uri.authority().map(http::uri::Authority::as_str))
}

fn forbidden(message: String) -> Response {
    Failure::from(ServiceError::new(Reason::Forbidden, message)).into_response()
}

pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let host = host_of(request.headers(), request.uri()).unwrap_or_default().to_owned();
    if !guard.host_ok(&host) {
        let shown: String = host.chars().take(80).flat_map(char::escape_debug).collect();
        return forbidden(format!("Host '{shown}' is not served here. MILLM_ALLOWED_HOSTS allows more."));
    }
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else { return next.run(request).await };
    if !origin.to_str().is_ok_and(|o| guard.origin_ok(o, &host)) {
        return forbidden("Pages of this origin may not call here. MILLM_ALLOWED_ORIGINS allows more.".to_owned());
    }
    if request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        headers.extend(wanted.map(|wanted| (header::ACCESS_CONTROL_ALLOW_HEADERS, wanted)));
        allow(headers, origin);
        return response;
    }
    let mut response = next.run(request).await;
    allow(response.headers_mut(), origin);
    response
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    const EXPOSED: &str = "grpc-status, grpc-message, grpc-status-details-bin, x-request-id, retry-after";
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(address: &str, set: &[(&str, &str)]) -> Guard {
        let flags: Vec<_> = set.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let settings = Settings::load(None, |_| None, &flags).unwrap();
        Guard::new(&settings, address.parse().unwrap())
    }

    #[test]
    fn hosts() {
        let g = guard("127.0.0.1:8000", &[("allowed_hosts", "models.lan")]);
        for good in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "models.lan", "models.lan:80"] {
            assert!(g.host_ok(good), "{good}");
        }
        for bad in ["evil.example", "", "127.0.0.1.evil.example", "localhost.evil.example:8000", "10.0.0.1"] {
            assert!(!g.host_ok(bad), "{bad}");
        }
        assert!(guard("0.0.0.0:8000", &[]).host_ok("box.lan:8000"));
        assert!(!guard("0.0.0.0:8000", &[("allowed_hosts", "box.lan")]).host_ok("evil.example"));
    }

    #[test]
    fn origins() {
        let g = guard("127.0.0.1:8000", &[("allowed_origins", "https://app.example")]);
        for good in ["http://127.0.0.1:8000", "http://localhost:8000", "https://app.example"] {
            assert!(g.origin_ok(good, "127.0.0.1:8000"), "{good}");
        }
        for bad in ["https://evil.example", "null", "http://localhost:3000", "file://", "http://evil.example:8000"] {
            assert!(!g.origin_ok(bad, "127.0.0.1:8000"), "{bad}");
        }
        let open = guard("0.0.0.0:8000", &[]);
        assert!(open.origin_ok("http://box.lan:8000", "box.lan:8000"));
        assert!(!open.origin_ok("http://evil.example:8000", "box.lan:8000"));
    }
}
