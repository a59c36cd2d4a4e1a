//! The hub as REST and `--json` show it: what a search finds, and how it has answered lately.

use millm_proto::downloader::v1::{
    FoundRepo, HubStatus, found_repo::Support, hub_status::State, search_repos_request::Sort,
};
use serde::Serialize;

use crate::ServiceError;

/// `likes`, as people write it; empty is the hub's own order.
pub fn parse_sort(text: &str) -> Result<Sort, ServiceError> {
    match text.to_ascii_lowercase().as_str() {
        "" => Ok(Sort::Unspecified),
        "downloads" => Ok(Sort::Downloads),
        "likes" => Ok(Sort::Likes),
        "last_modified" => Ok(Sort::LastModified),
        _ => Err(ServiceError::invalid_argument("sort", "must be downloads, likes or last_modified")),
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct FoundRepoView {
    pub repo_id: String,
    pub downloads: i64,
    pub likes: i64,
    pub last_modified: Option<String>,
    pub is_gated: bool,
    pub pipeline_tag: Option<String>,
    /// `None` when its description does not tell.
    pub supported: Option<bool>,
}

impl From<&FoundRepo> for FoundRepoView {
    fn from(repo: &FoundRepo) -> Self {
        Self {
            repo_id: repo.repo_id.clone(),
            downloads: repo.downloads,
            likes: repo.likes,
            last_modified: repo.last_modified_time.as_ref().map(ToString::to_string),
            is_gated: repo.gated,
            pipeline_tag: (!repo.pipeline_tag.is_empty()).then(|| repo.pipeline_tag.clone()),
            supported: match repo.support() {
                Support::Unspecified => None,
                Support::Supported => Some(true),
                Support::Unsupported => Some(false),
            },
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct HubView {
    pub host: String,
    /// Of the circuit breaker: `closed`, `open`, `half_open`.
    pub state: &'static str,
    pub consecutive_failures: u32,
    pub next_try_at: Option<String>,
    pub last_error: Option<String>,
    pub last_error_at: Option<String>,
}

impl From<&HubStatus> for HubView {
    fn from(hub: &HubStatus) -> Self {
        Self {
            host: hub.host.clone(),
            state: match hub.state() {
                State::Unspecified => "",
                State::Closed => "closed",
                State::Open => "open",
                State::HalfOpen => "half_open",
            },
            consecutive_failures: hub.consecutive_failures,
            next_try_at: hub.next_try_time.as_ref().map(ToString::to_string),
            last_error: (!hub.last_error.is_empty()).then(|| hub.last_error.clone()),
            last_error_at: hub.last_error_time.as_ref().map(ToString::to_string),
        }
    }
}
