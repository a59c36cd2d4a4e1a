//! What can go wrong when the hub is asked, and whether asking again makes sense: the protocol's table of
//! statuses and `X-Error-Code` on one side, the error table on the other.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use millm_kit::{ServiceError, names::RepoId};

use crate::policy::asked_wait;

/// Why an attempt failed.
#[derive(Debug)]
pub enum HubFault {
    /// May be better next time, after `wait` where the hub asked for one.
    Passing { why: String, wait: Option<Duration> },
    /// Nobody answered at all.
    Unreachable { why: String },
    /// It was not asked: it has failed too often of late. After `wait` it may be.
    Resting { wait: Duration },
    /// Will not change by asking again.
    Final(ServiceError),
}

impl HubFault {
    pub fn passing(why: impl Into<String>) -> Self {
        Self::Passing { why: why.into(), wait: None }
    }

    pub fn asked_wait(&self) -> Option<Duration> {
        match self {
            Self::Passing { wait, .. } => *wait,
            Self::Resting { wait } => Some(*wait),
            _ => None,
        }
    }

    pub fn why(&self) -> String {
        match self {
            Self::Passing { why, .. } | Self::Unreachable { why } => why.clone(),
            Self::Resting { .. } => "the hub keeps failing and is left alone for a while".to_owned(),
            Self::Final(error) => error.message.clone(),
        }
    }

    /// The error once no more attempts are made. `host` is the hub's.
    pub fn give_up(self, host: &str) -> ServiceError {
        match self {
            Self::Passing { why, .. } => ServiceError::download_failed(why),
            Self::Unreachable { why } => {
                tracing::warn!(host, why, "hub unreachable");
                ServiceError::hub_unavailable(host, "when it is asked again")
            }
            Self::Resting { wait } => {
                let seconds = wait.as_secs_f64().ceil() as u64;
                let next_try = format!("in {}", millm_kit::format::seconds(seconds));
                ServiceError::hub_unavailable(host, next_try).retry_after(wait)
            }
            Self::Final(error) => error,
        }
    }
}

impl From<reqwest::Error> for HubFault {
    /// Never with the URL: links to a CDN are signed.
    fn from(error: reqwest::Error) -> Self {
        let host = error.url().and_then(|url| url.host_str()).unwrap_or("the hub").to_owned();
        let (connecting, error) = (error.is_connect(), error.without_url());
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let why = if error.is_timeout() { format!("{host}: timed out") } else { format!("{host}: {cause}") };
        if connecting { Self::Unreachable { why } } else { Self::Passing { why, wait: None } }
    }
}

/// What was asked for, to word the answer.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `None` when it is about none.
    pub repo: Option<&'a RepoId>,
    pub what: What<'a>,
    pub with_token: bool,
    /// Origin of the hub, without a slash at the end.
    pub endpoint: &'a str,
}

#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    Revision(&'a str),
    File(&'a str),
    /// Something that is asked on the side.
    Other,
}

/// Judges an answer of the hub's own origin that is no success.
pub fn judge(asked: Asked<'_>, status: StatusCode, headers: &HeaderMap) -> HubFault {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (code, message) = (text("x-error-code"), text("x-error-message"));
    if matches!(status.as_u16(), 408 | 425 | 429 | 500..=599) {
        let why = match status {
            StatusCode::TOO_MANY_REQUESTS => format!("the hub's rate limit is reached ({status})"),
            _ => format!("the hub answered {status}"),
        };
        return HubFault::Passing { why, wait: asked_wait(headers) };
    }
    let Some(repo) = asked.repo else {
        return HubFault::Final(match status.as_u16() {
            401 if asked.with_token => ServiceError::invalid_hf_token(),
            _ => ServiceError::download_failed(format!("the hub answered {status}")),
        });
    };
    HubFault::Final(match (status.as_u16(), code) {
        (401, "GatedRepo") => ServiceError::gated_no_token(repo),
        (403, "GatedRepo") => ServiceError::gated_no_access(repo, format!("{}/{repo}", asked.endpoint)),
        (401 | 403 | 404, "RepoNotFound") => ServiceError::repo_not_found(repo),
        (_, "RevisionNotFound") => {
            let revision = if let What::Revision(revision) = asked.what { revision } else { "?" };
            ServiceError::not_found(format!("revision '{revision}' of '{repo}'"))
        }
        (_, "EntryNotFound") => {
            let file = if let What::File(file) = asked.what { file } else { "?" };
            ServiceError::not_found(format!("file '{file}' of '{repo}'"))
        }
        (401, _) if asked.with_token => ServiceError::invalid_hf_token(),
        (403, _) if message.contains("disabled") => {
            ServiceError::download_failed(format!("access to '{repo}' is disabled on the hub"))
        }
        (403, _) => ServiceError::gated_no_access(repo, format!("{}/{repo}", asked.endpoint)),
        (401 | 404, _) => ServiceError::repo_not_found(repo),
        _ => ServiceError::download_failed(format!("the hub answered {status} for '{repo}'")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millm_kit::Reason;

    fn check(status: u16, code: &str, with_token: bool, expected: Option<Reason>) {
        let repo = RepoId::parse("o/n").unwrap();
        let mut headers = HeaderMap::new();
        if !code.is_empty() {
            headers.insert("x-error-code", code.parse().unwrap());
        }
        let asked =
            Asked { repo: Some(&repo), what: What::Revision("main"), with_token, endpoint: "https://hub" };
        let reason = match judge(asked, StatusCode::from_u16(status).unwrap(), &headers) {
            HubFault::Final(error) => Some(error.reason),
            _ => None,
        };
        assert_eq!(reason, expected, "{status} {code}");
    }

    #[test]
    fn the_protocols_table() {
        check(401, "RepoNotFound", false, Some(Reason::RepoNotFound));
        check(404, "RepoNotFound", true, Some(Reason::RepoNotFound));
        check(401, "GatedRepo", false, Some(Reason::GatedModelNoToken));
        check(403, "GatedRepo", true, Some(Reason::GatedModelNoAccess));
        check(404, "RevisionNotFound", false, Some(Reason::NotFound));
        check(404, "EntryNotFound", false, Some(Reason::NotFound));
        check(401, "", true, Some(Reason::InvalidHfToken));
        check(401, "", false, Some(Reason::RepoNotFound));
        check(400, "", false, Some(Reason::ModelDownloadFailed));
        check(429, "", false, None);
        check(503, "", false, None);
    }
}
