//! The check of Host and Origin. A page of another origin, or a foreign name that resolves to this address (DNS
//! rebinding), must not reach a server that asks for no password.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::http::{HeaderMap, HeaderValue, Uri, header, uri::Authority};
use millm_kit::{ServiceError, Settings, format::excerpt};

/// The rules for Host and Origin. Cheap to clone.
#[derive(Clone)]
pub struct Guard(Arc<Rules>);

struct Rules {
    hosts: Vec<String>,
    any_host: bool,
    origins: Vec<String>,
    any_origin: bool,
    /// The server listens beyond loopback. IP addresses are allowed then, as no name server can forge them.
    any_address: bool,
}

/// A request that is allowed.
#[derive(Debug, PartialEq)]
pub struct Allowed {
    /// The other origin, whose pages may read the answer.
    pub cross_origin: Option<HeaderValue>,
}

impl Guard {
    /// Returns the rules of the settings; `address` is where the gateway listens.
    pub fn new(settings: &Settings, address: SocketAddr) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect::<Vec<_>>();
        let mut hosts = lower(&settings.allowed_hosts);
        hosts.push(settings.host.to_string());
        hosts.push(address.ip().to_string());
        let origins = lower(&settings.allowed_origins);
        Self(Arc::new(Rules {
            any_host: hosts.iter().any(|host| host == "*"),
            any_origin: origins.iter().any(|origin| origin == "*"),
            any_address: !settings.host.is_loopback(),
            hosts,
            origins: origins.into_iter().map(|origin| origin.trim_end_matches('/').to_owned()).collect(),
        }))
    }

    /// Checks a request.
    ///
    /// # Errors
    ///
    /// FORBIDDEN, with the setting that would allow the Host or the Origin.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<Allowed, ServiceError> {
        let header = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let header = header.and_then(|host| host.parse::<Authority>().ok());
        // HTTP/2 has it in the URI, HTTP/1.1 may have it in both.
        let named = [uri.authority(), header.as_ref()];
        if named.iter().all(Option::is_none) {
            return Err(ServiceError::forbidden("A request without Host", "a Host header"));
        }
        for host in named.into_iter().flatten() {
            if !self.allows_host(host.host()) {
                let what = format!("Host '{}'", host.host());
                return Err(ServiceError::forbidden(what, "MILLM_ALLOWED_HOSTS"));
            }
        }
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(Allowed { cross_origin: None }) };
        let own = named.into_iter().flatten().any(|host| is_same(origin, host));
        if own {
            return Ok(Allowed { cross_origin: None });
        }
        if self.allows_origin(origin) {
            return Ok(Allowed { cross_origin: Some(origin.clone()) });
        }
        let origin = String::from_utf8_lossy(origin.as_bytes());
        Err(ServiceError::forbidden(format!("Origin '{}'", excerpt(&origin)), "MILLM_ALLOWED_ORIGINS"))
    }

    fn allows_host(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase();
        if self.0.any_host || is_loopback(&host) || self.0.hosts.contains(&host) {
            return true;
        }
        self.0.any_address && host.parse::<IpAddr>().is_ok()
    }

    fn allows_origin(&self, origin: &HeaderValue) -> bool {
        let Ok(text) = origin.to_str() else { return false };
        let text = text.to_ascii_lowercase();
        // A page that this machine serves is as trusted as the programs on it.
        let local = origin_authority(&text).is_some_and(|authority| is_loopback(plain_host(&authority)));
        self.0.any_origin || local || self.0.origins.contains(&text)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn plain_host(authority: &Authority) -> &str {
    authority.host().trim_start_matches('[').trim_end_matches(']')
}

fn origin_authority(origin: &str) -> Option<Authority> {
    let uri = origin.parse::<Uri>().ok()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then(|| uri.authority().cloned()).flatten()
}

/// Returns whether a page of `origin` was served under `host`. A proxy may have added TLS, so the scheme is not compared.
fn is_same(origin: &HeaderValue, host: &Authority) -> bool {
    let Some(text) = origin.to_str().ok().map(str::to_ascii_lowercase) else { return false };
    let Some(authority) = origin_authority(&text) else { return false };
    let default = if text.starts_with("https:") { 443 } else { 80 };
    authority.host().eq_ignore_ascii_case(host.host())
        && authority.port_u16().unwrap_or(default) == host.port_u16().unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: &[(&str, &str)], host: &str, origin: Option<&str>) -> Result<Option<String>, String> {
        let flags: Vec<_> = settings.iter().map(|&(key, value)| (key, value.to_owned())).collect();
        let settings = Settings::load(None, |_| None, &flags).unwrap();
        let guard = Guard::new(&settings, SocketAddr::new(settings.host, 8000));
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let allowed = guard.check(&Uri::from_static("/v1/models"), &headers).map_err(|e| e.message)?;
        Ok(allowed.cross_origin.map(|origin| origin.to_str().unwrap().to_owned()))
    }

    #[test]
    fn hosts() {
        for good in ["localhost", "localhost:8000", "127.0.0.1:9", "[::1]:8000", "LOCALHOST", "a.localhost"] {
            assert_eq!(check(&[], good, None), Ok(None), "{good}");
        }
        for bad in
            ["evil.example", "localhost.evil.example", "192.168.1.5", "8.8.8.8:8000", "127.0.0.1.nip.io"]
        {
            assert!(check(&[], bad, None).unwrap_err().starts_with("Host '"), "{bad}");
        }
        let open = [("host", "0.0.0.0"), ("allowed_hosts", "gateway,Box.Lan")];
        for good in ["192.168.1.5:8000", "gateway:8000", "box.lan", "[fe80::1]"] {
            assert_eq!(check(&open, good, None), Ok(None), "{good}");
        }
        assert!(check(&open, "evil.example", None).is_err());
        assert_eq!(check(&[("allowed_hosts", "*")], "evil.example", None), Ok(None));
        assert!(check(&[], "", None).is_err());
    }

    #[test]
    fn origins() {
        let here = "localhost:8000";
        assert_eq!(check(&[], here, Some("http://localhost:8000")), Ok(None));
        let other = "http://127.0.0.1:5173".to_owned();
        assert_eq!(check(&[], here, Some(&other)), Ok(Some(other)));
        for bad in
            ["http://evil.example", "null", "https://localhost.evil.example", "file://", "http://[", ""]
        {
            assert!(check(&[], here, Some(bad)).is_err(), "{bad}");
        }
        let allowed = [("allowed_origins", "https://my.app/")];
        assert_eq!(check(&allowed, here, Some("https://my.app")), Ok(Some("https://my.app".into())));
        assert!(check(&allowed, here, Some("http://my.app")).is_err());
        // Behind a proxy that adds TLS.
        let proxied = [("allowed_hosts", "my.app")];
        assert_eq!(check(&proxied, "my.app", Some("https://my.app")), Ok(None));
        assert!(check(&proxied, "my.app", Some("https://my.app:444")).is_err());
        assert!(check(&[("allowed_origins", "*")], here, Some("http://evil.example")).is_ok());
    }
}
