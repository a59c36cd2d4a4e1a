//! One HTTP call to the hub: it follows redirects, sends the token to the hub alone, reports to the circuit breaker, and
//! bounds how much of the answer is read.

use std::{
    ops::Range,
    sync::{Arc, Once},
    time::Duration,
};

use futures::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use millm_kit::{Secret, ServiceError, names::is_commit};
use reqwest::Response;
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout_at},
};
use url::Url;

use super::{
    breaker::{Breaker, Permit, Rejected},
    error::{HubError, RequestContext, from_status},
    ssrf_guard::SsrfGuard,
};
use crate::{error::BuildError, limits::HubLimits, retry::requested_pause};

const MAX_REDIRECTS: usize = 8;

/// The HTTP side of a hub's client. It is cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct HubHttp(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The endpoint without a slash at the end. A mirror may lie below a path.
    endpoint: String,
    url: Url,
    client: reqwest::Client,
    breaker: Breaker,
    limits: HubLimits,
    guard: OnceCell<SsrfGuard>,
}

/// A request, and the time by which the headers of its answer must have come.
#[derive(Debug, Clone, Copy)]
pub(super) struct HubRequest<'a> {
    pub(super) url: &'a str,
    pub(super) context: RequestContext<'a>,
    pub(super) token: Option<&'a Secret>,
    pub(super) range: Option<&'a Range<u64>>,
    pub(super) deadline: Instant,
}

/// An answer whose headers have come. The body is still to be read.
pub(super) struct HubResponse<'a> {
    pub(super) response: Response,
    /// `X-Repo-Commit` of the hub's own answer.
    pub(super) commit: Option<String>,
    /// The address of the last redirect.
    pub(super) url: Url,
    /// Present when the hub's own origin sends the body. [`settle`] tells the circuit breaker how that ended.
    pub(super) permit: Option<Permit<'a>>,
}

impl HubHttp {
    /// Makes the HTTP client for the hub at `endpoint`.
    ///
    /// # Errors
    ///
    /// Returns [`BuildError::Http`].
    pub(super) fn new(endpoint: &Url, limits: HubLimits) -> Result<Self, BuildError> {
        static PROVIDER: Once = Once::new();
        // An error means that this process has installed a provider already, which serves as well.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(limits.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true)
            // With HTTP/2 the ranges of a file would share one connection's window.
            .http1_only()
            .user_agent(concat!("millm/", env!("CARGO_PKG_VERSION")));
        let is_local = match endpoint.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        if is_local {
            client = client.no_proxy();
        }
        Ok(Self(Arc::new(Inner {
            endpoint: endpoint.as_str().trim_end_matches('/').to_owned(),
            url: endpoint.clone(),
            client: client.build().map_err(BuildError::Http)?,
            breaker: Breaker::new(limits.breaker_failures, limits.breaker_pause),
            limits,
            guard: OnceCell::new(),
        })))
    }

    /// Returns the hub's endpoint, without a slash at the end.
    pub(super) fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// Returns the host's name, for messages.
    pub(super) fn host(&self) -> &str {
        self.0.url.host_str().unwrap_or("the hub")
    }

    /// Returns the times and counts for this hub.
    pub(super) fn limits(&self) -> &HubLimits {
        &self.0.limits
    }

    /// Returns the circuit breaker of this hub.
    pub(super) fn breaker(&self) -> &Breaker {
        &self.0.breaker
    }

    /// Returns whether the URL is of the hub's own origin.
    pub(super) fn is_own_origin(&self, url: &Url) -> bool {
        url.origin() == self.0.url.origin()
    }

    /// Returns the error for an answer that no hub made.
    pub(super) fn not_a_hub(&self) -> ServiceError {
        ServiceError::download_failed(format!("{} is not a Hugging Face hub", self.host()))
    }

    /// Sends a request and follows its redirects: within the hub's origin with the token, elsewhere without.
    ///
    /// # Errors
    ///
    /// Returns why this attempt failed.
    pub(super) async fn send(&self, request: &HubRequest<'_>) -> Result<HubResponse<'_>, HubError> {
        let mut url = Url::parse(request.url).map_err(|e| HubError::Permanent(ServiceError::internal(e)))?;
        let bearer = request.token.map(bearer).transpose()?;
        let mut commit = None;
        for _ in 0..=MAX_REDIRECTS {
            let is_own = self.is_own_origin(&url);
            let permit = if is_own { Some(self.acquire_permit(request.deadline).await?) } else { None };
            let sent = self.get(url.clone(), bearer.as_ref().filter(|_| is_own), request.range);
            let response = match timeout_at(request.deadline, sent).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(report_failure(permit, error.into())),
                Err(_) => {
                    let host = url.host_str().unwrap_or_default();
                    let error = HubError::transient(format!("{host} did not answer in time"));
                    return Err(report_failure(permit, error));
                }
            };
            if is_own && let Some(value) = response.headers().get("x-repo-commit") {
                commit = value.to_str().ok().filter(|commit| is_commit(commit)).map(str::to_owned);
            }
            let status = response.status();
            if status.is_redirection() {
                if let Some(permit) = permit {
                    permit.succeeded();
                }
                url = redirect_target(&url, &response)?;
                let guard = self.0.guard.get_or_init(|| SsrfGuard::for_hub(&self.0.url)).await;
                let checked = if self.is_own_origin(&url) { Ok(()) } else { guard.check(&url).await };
                checked.map_err(|why| HubError::Permanent(ServiceError::download_failed(why)))?;
                continue;
            }
            if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok(HubResponse { response, commit, url, permit });
            }
            if is_own {
                let error = from_status(request.context, status, response.headers());
                if status.is_server_error() {
                    return Err(report_failure(permit, error));
                }
                if let Some(permit) = permit {
                    permit.refused();
                }
                return Err(error);
            }
            // A signed link expired, or the file server is overloaded: the next attempt starts at the hub again.
            return Err(file_server_error(&response));
        }
        let why = format!("{} redirects in circles", self.host());
        Err(HubError::Permanent(ServiceError::download_failed(why)))
    }

    /// Sends one GET request and follows no redirect. `range` is half-open; an end of `u64::MAX` is left open.
    pub(super) async fn get(
        &self,
        url: Url,
        bearer: Option<&HeaderValue>,
        range: Option<&Range<u64>>,
    ) -> reqwest::Result<Response> {
        let mut request = self.0.client.get(url).header(header::ACCEPT_ENCODING, "identity");
        if let Some(range) = range {
            let value = match range.end {
                u64::MAX => format!("bytes={}-", range.start),
                end => format!("bytes={}-{}", range.start, end.saturating_sub(1)),
            };
            request = request.header(header::RANGE, value);
        }
        if let Some(bearer) = bearer {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        request.send().await
    }

    /// Reads at most `length` bytes of a body. It fails when no byte comes for the stall timeout, or at the deadline.
    ///
    /// # Errors
    ///
    /// Returns why the body did not come.
    pub(super) async fn read_up_to(
        &self,
        response: Response,
        length: u64,
        deadline: Instant,
    ) -> Result<Vec<u8>, HubError> {
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while (bytes.len() as u64) < length {
            let next_deadline = deadline.min(Instant::now() + self.limits().stall_timeout);
            let next = timeout_at(next_deadline, stream.next()).await;
            let next = next.map_err(|_| HubError::transient(format!("{} stopped sending", self.host())))?;
            let Some(chunk) = next else { break };
            bytes.extend_from_slice(&chunk?);
        }
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// Reads a whole body, which must be at most `limit` bytes long.
    ///
    /// # Errors
    ///
    /// Returns why the body did not come; a permanent error when it is too long.
    pub(super) async fn read_all(
        &self,
        response: Response,
        limit: u64,
        deadline: Instant,
    ) -> Result<Vec<u8>, HubError> {
        let bytes = self.read_up_to(response, limit + 1, deadline).await?;
        if bytes.len() as u64 > limit {
            let why = format!("an answer of the hub is longer than {limit} bytes");
            return Err(HubError::Permanent(ServiceError::download_failed(why)));
        }
        Ok(bytes)
    }

    /// Asks the circuit breaker. While another request probes the hub, this one waits for its outcome.
    async fn acquire_permit(&self, deadline: Instant) -> Result<Permit<'_>, HubError> {
        loop {
            let probed = self.0.breaker.probe_finished();
            match self.0.breaker.acquire() {
                Ok(permit) => return Ok(permit),
                Err(Rejected::Open(wait)) => return Err(HubError::CircuitOpen { wait }),
                Err(Rejected::Probing) => {
                    let finished = timeout_at(deadline, probed).await;
                    finished
                        .map_err(|_| HubError::Unreachable { why: format!("{} is silent", self.host()) })?;
                }
            }
        }
    }
}

/// Returns the error for a status of the hub's file server.
pub(super) fn file_server_error(response: &Response) -> HubError {
    HubError::Transient {
        why: format!("the hub's file server answered {}", response.status()),
        wait: requested_pause(response.headers()),
    }
}

/// Tells the circuit breaker how the body of an answer came.
///
/// # Errors
///
/// Returns the error of `body`.
pub(super) fn settle<T>(permit: Option<Permit<'_>>, body: Result<T, HubError>) -> Result<T, HubError> {
    match body {
        Ok(value) => {
            if let Some(permit) = permit {
                permit.succeeded();
            }
            Ok(value)
        }
        Err(error @ HubError::Permanent(_)) => {
            if let Some(permit) = permit {
                permit.refused();
            }
            Err(error)
        }
        Err(error) => Err(report_failure(permit, error)),
    }
}

/// Tells the circuit breaker of a failure of the hub's own origin.
fn report_failure(permit: Option<Permit<'_>>, error: HubError) -> HubError {
    if let Some(permit) = permit {
        permit.failed(&error.why());
    }
    error
}

fn bearer(token: &Secret) -> Result<HeaderValue, HubError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| HubError::Permanent(ServiceError::invalid_hf_token()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn redirect_target(from: &Url, response: &Response) -> Result<Url, HubError> {
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    location
        .and_then(|location| from.join(location).ok())
        .ok_or_else(|| HubError::Permanent(ServiceError::download_failed("the hub redirected to nowhere")))
}
