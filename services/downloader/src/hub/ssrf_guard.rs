//! The SSRF guard: a redirect of the hub may lead to another web address, never to a file, and never to this machine or
//! its network unless the hub itself is there.
//!
//! It is written by hand because the rule depends on the hub's own address (a hub on the local network may redirect
//! within it), and because redirects are followed by hand anyway to keep the token at the hub's origin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// The addresses that a hub's redirects may reach, decided once from the hub's own address.
#[derive(Debug, Clone)]
pub(crate) struct SsrfGuard {
    private_allowed: bool,
    plain_allowed: bool,
}

impl SsrfGuard {
    /// Makes the guard of a hub, from the hub's own address.
    pub(crate) async fn for_hub(endpoint: &Url) -> Self {
        Self { private_allowed: leads_to_private(endpoint).await, plain_allowed: endpoint.scheme() == "http" }
    }

    /// Checks the target of a redirect.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the address, as a sentence.
    pub(crate) async fn check(&self, target: &Url) -> Result<(), String> {
        match target.scheme() {
            "https" => {}
            "http" if self.plain_allowed => {}
            scheme => return Err(format!("the hub redirected to a '{scheme}:' address, which is refused")),
        }
        if !self.private_allowed && leads_to_private(target).await {
            return Err("the hub redirected to a private address, which is refused".to_owned());
        }
        Ok(())
    }
}

/// Returns whether one of the URL's addresses is private. A name that does not resolve here passes: a proxy may resolve
/// it, and nothing private can be reached by it from here.
async fn leads_to_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => is_private(ip.into()),
        Some(Host::Ipv6(ip)) => is_private(ip.into()),
        Some(Host::Domain(name)) => {
            let port = url.port_or_known_default().unwrap_or(443);
            match tokio::net::lookup_host((name, port)).await {
                Ok(mut addresses) => addresses.any(|address| is_private(address.ip())),
                Err(_) => false,
            }
        }
        None => true,
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || shared || {
                ip == Ipv4Addr::BROADCAST
            }
        }
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(mapped) => is_private(mapped.into()),
            None => {
                ip == Ipv6Addr::LOCALHOST
                    || ip.is_unspecified()
                    || ip.is_unique_local()
                    || ip.is_unicast_link_local()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn redirects_stay_on_the_public_web() {
        let url = |text: &str| Url::parse(text).unwrap();
        let public = SsrfGuard::for_hub(&url("https://203.0.113.5")).await;
        for refused in [
            "file:///etc/passwd",
            "http://203.0.113.9/x",
            "https://127.0.0.1/x",
            "https://10.1.2.3/x",
            "https://169.254.169.254/latest",
            "https://[::1]/x",
            "https://[::ffff:192.168.0.1]/x",
            "https://100.64.0.1/x",
        ] {
            assert!(public.check(&url(refused)).await.is_err(), "{refused}");
        }
        assert!(public.check(&url("https://203.0.113.9/x")).await.is_ok());
        let local = SsrfGuard::for_hub(&url("http://127.0.0.1:8080")).await;
        assert!(local.check(&url("http://127.0.0.1:9090/x")).await.is_ok());
        assert!(local.check(&url("file:///etc/passwd")).await.is_err());
    }
}
