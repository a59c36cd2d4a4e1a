//! Answers other than files: JSON, errors in the hub's words, redirects.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

pub(crate) const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
pub(crate) const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");

/// The hub's own errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The repository does not exist, or its existence is hidden from the client.
    RepoNotFound {
        with_token: bool,
    },
    GatedNoToken {
        repo: String,
    },
    GatedNoAccess {
        repo: String,
    },
    RevisionNotFound {
        revision: String,
    },
    EntryNotFound {
        revision: String,
        path: String,
    },
    BadToken,
    /// `whoami` without a token.
    NoToken,
    Disabled,
    NoSuchPage,
    BadRequest {
        message: String,
    },
}

impl Problem {
    /// Returns the hub's answer for this error.
    pub fn answer(&self) -> Response {
        match self {
            Self::RepoNotFound { with_token: true } => {
                error(404, Some("RepoNotFound"), "Repository not found")
            }
            Self::RepoNotFound { with_token: false } => {
                error(401, Some("RepoNotFound"), "Invalid username or password.")
            }
            Self::GatedNoToken { repo } => error(
                401,
                Some("GatedRepo"),
                &format!(
                    "Access to model {repo} is restricted. You must have access to it and be authenticated to access it. Please log in."
                ),
            ),
            Self::GatedNoAccess { repo } => error(
                403,
                Some("GatedRepo"),
                &format!(
                    "Access to model {repo} is restricted and you are not in the authorized list. Visit https://huggingface.co/{repo} to ask for access."
                ),
            ),
            Self::RevisionNotFound { revision } => {
                error(404, Some("RevisionNotFound"), &format!("Invalid rev id: {revision}"))
            }
            Self::EntryNotFound { revision, path } => {
                error(404, Some("EntryNotFound"), &format!("{path} does not exist on \"{revision}\""))
            }
            Self::BadToken => error(401, None, "Invalid credentials in Authorization header"),
            Self::NoToken => error(401, None, "Invalid username or password."),
            Self::Disabled => error(403, None, "Access to this resource is disabled."),
            Self::NoSuchPage => error(404, None, "Sorry, we can't find the page you are looking for."),
            Self::BadRequest { message } => error(400, None, message),
        }
    }
}

/// Returns an error in the hub's form: in headers, for HEAD, and in the body.
pub(crate) fn error(status: u16, code: Option<&'static str>, message: &str) -> Response {
    let mut response = json_answer(status, &json!({ "error": message }));
    let headers = response.headers_mut();
    if let Some(code) = code {
        headers.insert(ERROR_CODE, HeaderValue::from_static(code));
    }
    headers.insert(ERROR_MESSAGE, header(message));
    response
}

/// Returns the answer of a rate limit or of a failing server, for a fault.
pub(crate) fn status_fault(
    code: u16,
    retry_after: Option<&str>,
    rate_limit_seconds: Option<u32>,
) -> Response {
    let message = match code {
        429 => {
            "We had to rate limit your IP. To continue using our service, create a HF account or login to your existing account, and make sure you pass a HF_TOKEN if you're using the API."
        }
        503 => "Service Unavailable",
        _ => "Internal Error - We're working hard to fix this as soon as possible!",
    };
    let mut response = error(code, None, message);
    let headers = response.headers_mut();
    if let Some(value) = retry_after {
        headers.insert(RETRY_AFTER, header(value));
    }
    if let Some(seconds) = rate_limit_seconds {
        headers.insert("ratelimit", header(&format!("\"api\";r=0;t={seconds}")));
        let policy = HeaderValue::from_static("\"fixed window\";\"api\";q=500;w=300");
        headers.insert("ratelimit-policy", policy);
    }
    response
}

pub(crate) fn json_answer(status: u16, value: &Value) -> Response {
    with_body(status, "application/json; charset=utf-8", value.to_string())
}

pub(crate) fn with_body(status: u16, content_type: &'static str, body: String) -> Response {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, length);
    response
}

/// Returns a redirect with a short text as its body. Its length is not the file's.
pub(crate) fn redirect(status: u16, location: &str) -> Response {
    let mut response = with_body(status, "text/plain; charset=utf-8", format!("Redirecting to {location}"));
    response.headers_mut().insert(LOCATION, header(location));
    response
}

/// Returns a page of another server, such as a captive portal.
pub(crate) fn foreign_page() -> Response {
    let page = "<!doctype html><title>Welcome</title><p>Please accept our terms to go online.";
    with_body(200, "text/html; charset=utf-8", page.to_owned())
}

/// Returns a header's value. Characters that a header cannot hold become `?`.
pub(crate) fn header(text: &str) -> HeaderValue {
    let plain: String =
        text.chars().map(|c| if c.is_ascii() && !c.is_ascii_control() { c } else { '?' }).collect();
    HeaderValue::from_str(&plain).expect("printable ASCII is a header value")
}
