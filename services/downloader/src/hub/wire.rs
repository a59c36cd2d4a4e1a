//! One call over HTTP: where its redirects lead, who is given the token, what the breaker is told, and how much of the
//! answer is read.

use std::ops::Range;

use futures::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use millm_kit::{Secret, ServiceError};
use reqwest::Response;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::{
    Asked, Hub, HubFault,
    breaker::{Barred, Permit},
    fault::judge,
    guard::Guard,
    path::is_commit,
};

const MOST_REDIRECTS: usize = 8;

/// What is asked, of whom, and until when there must be an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub url: &'a str,
    pub asked: Asked<'a>,
    pub token: Option<&'a Secret>,
    pub range: Option<&'a Range<u64>>,
    pub deadline: Instant,
}

/// Headers have come; the body is still to be read.
pub(super) struct Answer<'a> {
    pub response: Response,
    /// `X-Repo-Commit` of the hub's own answer.
    pub commit: Option<String>,
    /// Where it came from in the end.
    pub url: Url,
    /// Of the hub's own origin: to be told how the body came.
    pub permit: Option<Permit<'a>>,
}

impl Hub {
    /// One request and where its redirects lead: within the hub's origin with the token, elsewhere without.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Answer<'_>, HubFault> {
        let mut url = Url::parse(call.url).map_err(|e| HubFault::Final(ServiceError::internal(e)))?;
        let bearer = call.token.map(bearer).transpose()?;
        let mut commit = None;
        for _ in 0..=MOST_REDIRECTS {
            let home = self.is_home(&url);
            let permit = if home { Some(self.admit(call.deadline).await?) } else { None };
            let sent = self.request(url.clone(), bearer.as_ref().filter(|_| home), call.range);
            let response = match timeout_at(call.deadline, sent).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(settled(permit, error.into())),
                Err(_) => {
                    let host = url.host_str().unwrap_or_default();
                    return Err(settled(permit, HubFault::passing(format!("{host} did not answer in time"))));
                }
            };
            if home && let Some(value) = response.headers().get("x-repo-commit") {
                commit = value.to_str().ok().filter(|commit| is_commit(commit)).map(str::to_owned);
            }
            let status = response.status();
            if status.is_redirection() {
                if let Some(permit) = permit {
                    permit.succeeded();
                }
                url = redirect_target(&url, &response)?;
                let guard = self.0.guard.get_or_init(|| Guard::for_hub(&self.0.url)).await;
                let checked = if self.is_home(&url) { Ok(()) } else { guard.check(&url).await };
                checked.map_err(|why| HubFault::Final(ServiceError::download_failed(why)))?;
                continue;
            }
            if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok(Answer { response, commit, url, permit });
            }
            if home {
                let fault = judge(call.asked, status, response.headers());
                if status.is_server_error() {
                    return Err(settled(permit, fault));
                }
                if let Some(permit) = permit {
                    permit.answered();
                }
                return Err(fault);
            }
            // A signed link that has expired, or a tired CDN: the next attempt begins at the hub again.
            let wait = crate::policy::asked_wait(response.headers());
            return Err(HubFault::Passing { why: format!("the hub's file server answered {status}"), wait });
        }
        Err(HubFault::Final(ServiceError::download_failed(format!("{} redirects in circles", self.host()))))
    }

    /// At most `length` bytes of a body. Silence, and an answer that is not there by the deadline, are faults.
    pub(super) async fn take(
        &self,
        response: Response,
        length: u64,
        deadline: Instant,
    ) -> Result<Vec<u8>, HubFault> {
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while (bytes.len() as u64) < length {
            let patience = deadline.min(Instant::now() + self.policy().stall_timeout);
            let next = timeout_at(patience, stream.next()).await;
            let next = next.map_err(|_| HubFault::passing(format!("{} fell silent", self.host())))?;
            let Some(chunk) = next else { break };
            bytes.extend_from_slice(&chunk?);
        }
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// A body that must end within `most` bytes.
    pub(super) async fn body(
        &self,
        response: Response,
        most: u64,
        deadline: Instant,
    ) -> Result<Vec<u8>, HubFault> {
        let bytes = self.take(response, most + 1, deadline).await?;
        if bytes.len() as u64 > most {
            let why = format!("an answer of the hub is longer than {most} bytes");
            return Err(HubFault::Final(ServiceError::download_failed(why)));
        }
        Ok(bytes)
    }

    pub(super) fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.0.url.origin()
    }

    /// Waits for the end of another's try, which decides for this one, too.
    async fn admit(&self, deadline: Instant) -> Result<Permit<'_>, HubFault> {
        loop {
            let tried = self.0.breaker.tried();
            match self.0.breaker.admit() {
                Ok(permit) => return Ok(permit),
                Err(Barred::Open(wait)) => return Err(HubFault::Resting { wait }),
                Err(Barred::Trying) => {
                    let over = timeout_at(deadline, tried).await;
                    over.map_err(|_| HubFault::Unreachable { why: format!("{} is silent", self.host()) })?;
                }
            }
        }
    }

    pub(super) async fn request(
        &self,
        url: Url,
        bearer: Option<&HeaderValue>,
        range: Option<&Range<u64>>,
    ) -> reqwest::Result<Response> {
        let mut request = self.0.http.get(url).header(header::ACCEPT_ENCODING, "identity");
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
}

/// Tells the breaker of a failure of the hub's own origin.
fn settled(permit: Option<Permit<'_>>, fault: HubFault) -> HubFault {
    if let Some(permit) = permit {
        permit.failed(&fault.why());
    }
    fault
}

/// Tells the breaker how a body came.
pub(super) fn settle<T>(permit: Option<Permit<'_>>, end: Result<T, HubFault>) -> Result<T, HubFault> {
    match end {
        Ok(value) => {
            if let Some(permit) = permit {
                permit.succeeded();
            }
            Ok(value)
        }
        Err(fault @ HubFault::Final(_)) => {
            if let Some(permit) = permit {
                permit.answered();
            }
            Err(fault)
        }
        Err(fault) => Err(settled(permit, fault)),
    }
}

fn bearer(token: &Secret) -> Result<HeaderValue, HubFault> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| HubFault::Final(ServiceError::invalid_hf_token()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn redirect_target(from: &Url, response: &Response) -> Result<Url, HubFault> {
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    location
        .and_then(|location| from.join(location).ok())
        .ok_or_else(|| HubFault::Final(ServiceError::download_failed("the hub redirected to nowhere")))
}
