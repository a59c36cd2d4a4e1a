//! The errors of a call to the hub, and the decision to retry: the hub's statuses and `X-Error-Code` headers on one
//! side, the service errors on the other.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use millm_kit::{ServiceError, names::RepoId};

use super::repo_kind::RepoKind;
use crate::retry::{RetryError, requested_pause};

/// The reason why one attempt failed.
#[derive(Debug)]
pub(crate) enum HubError {
    /// A retry may succeed, after `wait` where the hub asked for a pause.
    Transient { why: String, wait: Option<Duration> },
    /// Nothing answered at the hub's address.
    Unreachable { why: String },
    /// The circuit breaker is open: the hub was not called. It may be called after `wait`.
    CircuitOpen { wait: Duration },
    /// A retry would fail, too.
    Permanent(ServiceError),
}

impl HubError {
    /// Makes a transient error without a requested pause.
    pub(crate) fn transient(why: impl Into<String>) -> Self {
        Self::Transient { why: why.into(), wait: None }
    }

    /// Returns the reason as a sentence, for logs and the hub's status.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Transient { why, .. } | Self::Unreachable { why } => why.clone(),
            Self::CircuitOpen { .. } => "the hub keeps failing and is not called for a while".to_owned(),
            Self::Permanent(error) => error.message.clone(),
        }
    }

    /// Returns the error for the caller once no retry is left. `host` is the hub's name.
    pub(crate) fn into_service_error(self, host: &str) -> ServiceError {
        match self {
            Self::Transient { why, .. } => ServiceError::download_failed(why),
            Self::Unreachable { why } => {
                tracing::warn!(host, why, "hub unreachable");
                ServiceError::hub_unavailable(host, "when it is asked again")
            }
            Self::CircuitOpen { wait } => {
                let seconds = wait.as_secs_f64().ceil() as u64;
                let next_try = format!("in {}", millm_kit::format::seconds(seconds));
                ServiceError::hub_unavailable(host, next_try).retry_after(wait)
            }
            Self::Permanent(error) => error,
        }
    }
}

impl RetryError for HubError {
    fn reason(&self) -> String {
        self.why()
    }

    fn requested_pause(&self) -> Option<Duration> {
        match self {
            Self::Transient { wait, .. } => *wait,
            Self::CircuitOpen { wait } => Some(*wait),
            Self::Unreachable { .. } | Self::Permanent(_) => None,
        }
    }
}

impl From<reqwest::Error> for HubError {
    /// Leaves the URL out: links to a file server are signed.
    fn from(error: reqwest::Error) -> Self {
        let host = error.url().and_then(|url| url.host_str()).unwrap_or("the hub").to_owned();
        let (is_connect, error) = (error.is_connect(), error.without_url());
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let why = if error.is_timeout() { format!("{host}: timed out") } else { format!("{host}: {cause}") };
        if is_connect { Self::Unreachable { why } } else { Self::Transient { why, wait: None } }
    }
}

/// The purpose of a request, for the words of its error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestContext<'a> {
    /// `None` when the request is not about one repository.
    pub(crate) repo: Option<&'a RepoId>,
    pub(crate) kind: RepoKind,
    pub(crate) target: RequestTarget<'a>,
    pub(crate) with_token: bool,
    /// The hub's endpoint, without a slash at the end.
    pub(crate) endpoint: &'a str,
}

/// The part of a repository that a request was for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RequestTarget<'a> {
    Revision(&'a str),
    File(&'a str),
    /// An additional question, such as whether the hub accepts a token.
    Other,
}

/// Returns the error for an answer of the hub's own origin that is not a success.
pub(super) fn from_status(context: RequestContext<'_>, status: StatusCode, headers: &HeaderMap) -> HubError {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (code, message) = (text("x-error-code"), text("x-error-message"));
    if matches!(status.as_u16(), 408 | 425 | 429 | 500..=599) {
        let why = match status {
            StatusCode::TOO_MANY_REQUESTS => format!("the hub's rate limit is reached ({status})"),
            _ => format!("the hub answered {status}"),
        };
        return HubError::Transient { why, wait: requested_pause(headers) };
    }
    let Some(repo) = context.repo else {
        return HubError::Permanent(match status.as_u16() {
            401 if context.with_token => ServiceError::invalid_hf_token(),
            _ => ServiceError::download_failed(format!("the hub answered {status}")),
        });
    };
    let page = || context.kind.page(context.endpoint, repo);
    HubError::Permanent(match (status.as_u16(), code) {
        (401, "GatedRepo") => ServiceError::gated_no_token(repo),
        (403, "GatedRepo") => ServiceError::gated_no_access(repo, page()),
        (401 | 403 | 404, "RepoNotFound") => context.kind.not_found(repo),
        (_, "RevisionNotFound") => {
            let revision =
                if let RequestTarget::Revision(revision) = context.target { revision } else { "?" };
            ServiceError::not_found(format!("revision '{revision}' of '{repo}'"))
        }
        (_, "EntryNotFound") => {
            let file = if let RequestTarget::File(file) = context.target { file } else { "?" };
            ServiceError::not_found(format!("file '{file}' of '{repo}'"))
        }
        (401, _) if context.with_token => ServiceError::invalid_hf_token(),
        (403, _) if message.contains("disabled") => {
            ServiceError::download_failed(format!("access to '{repo}' is disabled on the hub"))
        }
        (403, _) => ServiceError::gated_no_access(repo, page()),
        (401 | 404, _) => context.kind.not_found(repo),
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
        let target = RequestTarget::Revision("main");
        let (kind, endpoint) = (RepoKind::Model, "https://hub");
        let context = RequestContext { repo: Some(&repo), kind, target, with_token, endpoint };
        let reason = match from_status(context, StatusCode::from_u16(status).unwrap(), &headers) {
            HubError::Permanent(error) => Some(error.reason),
            _ => None,
        };
        assert_eq!(reason, expected, "{status} {code}");
    }

    #[test]
    fn statuses_and_codes_have_their_errors() {
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
