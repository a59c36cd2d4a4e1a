//! Signed links: large files come from the hub's file server, by links that expire.

use std::ops::Range;

use http::StatusCode;
use reqwest::Response;
use url::Url;

use super::{
    error::HubError,
    http::{HubHttp, file_server_error},
};

/// Asks once for a range by a signed link: 200, 206 or 416. Returns `None` when the link is no longer valid.
///
/// # Errors
///
/// Returns why this attempt failed.
pub(super) async fn open(
    http: &HubHttp,
    url: &Url,
    range: Option<&Range<u64>>,
) -> Result<Option<Response>, HubError> {
    let sent = http.get(url.clone(), None, range);
    let sent = tokio::time::timeout(http.limits().stall_timeout, sent).await;
    let response = sent.map_err(|_| HubError::transient("the hub's file server sent nothing"))??;
    match response.status() {
        StatusCode::RANGE_NOT_SATISFIABLE => Ok(Some(response)),
        status if status.is_success() => Ok(Some(response)),
        // After any other refusal the hub is asked where the file is now.
        status if status.is_redirection() || status.is_client_error() && !is_overloaded(status) => Ok(None),
        _ => Err(file_server_error(&response)),
    }
}

fn is_overloaded(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429)
}
