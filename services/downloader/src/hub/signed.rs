//! The hub's file server: large files come from there, by links that are signed and expire.

use std::ops::Range;

use http::StatusCode;
use reqwest::Response;
use url::Url;

use super::{Hub, HubFault};
use crate::policy::asked_wait;

/// An answer with the beginning of a file or a range of it.
#[derive(Debug)]
pub struct Opened {
    pub response: Response,
    /// Where it came from when that is not the hub itself: good for more ranges, until it expires.
    pub signed: Option<Url>,
}

impl Hub {
    /// A range by a link that [`Hub::open`] found: 200, 206 or 416. `None` when the link is no good any more.
    pub async fn open_signed(
        &self,
        url: &Url,
        range: Option<Range<u64>>,
    ) -> Result<Option<Response>, HubFault> {
        let sent = self.request(url.clone(), None, range.as_ref());
        let sent = tokio::time::timeout(self.0.policy.stall_timeout, sent).await;
        let response = sent.map_err(|_| HubFault::passing("the hub's file server sent nothing"))??;
        match response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(Some(response)),
            status if status.is_success() => Ok(Some(response)),
            // Whatever else it says, asking the hub leads where the file is now.
            status if status.is_redirection() || status.is_client_error() && !is_busy(status) => Ok(None),
            status => {
                let wait = asked_wait(response.headers());
                Err(HubFault::Passing { why: format!("the hub's file server answered {status}"), wait })
            }
        }
    }
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429)
}
