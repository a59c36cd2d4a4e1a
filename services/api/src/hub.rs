//! The hub: what a search finds, and how the hub has answered lately.

use millm_kit::ServiceError;
use millm_proto::downloader::v1::{
    self as downloader, SearchReposRequest, found_repo::Support, hub_status::State,
    search_repos_request::Sort,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{some, time};

/// The query of `GET /api/search`.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct SearchQuery {
    /// A part of a repository's name.
    pub q: String,
    /// Only repositories of this owner.
    pub author: String,
    /// `downloads`, `likes` or `last_modified`; the hub's own order unless given.
    pub sort: String,
    /// How many repositories at most; 20 unless given.
    #[param(value_type = Option<u32>)]
    pub limit: String,
}

impl TryFrom<SearchQuery> for SearchReposRequest {
    type Error = ServiceError;

    /// # Errors
    ///
    /// INVALID_ARGUMENT of `sort` or `limit`.
    fn try_from(query: SearchQuery) -> Result<Self, ServiceError> {
        let limit = match query.limit.as_str() {
            "" => 0,
            text => text.parse().map_err(|_| ServiceError::invalid_argument("limit", "must be a number"))?,
        };
        let sort = parse_sort(&query.sort)?.into();
        Ok(Self { query: query.q, author: query.author, sort, limit, hf_token: String::new() })
    }
}

/// Reads the order of a search. An empty text is the hub's own order; case does not matter.
///
/// # Errors
///
/// INVALID_ARGUMENT of `sort` for any other text.
pub fn parse_sort(text: &str) -> Result<Sort, ServiceError> {
    match text.to_ascii_lowercase().as_str() {
        "" => Ok(Sort::Unspecified),
        "downloads" => Ok(Sort::Downloads),
        "likes" => Ok(Sort::Likes),
        "last_modified" => Ok(Sort::LastModified),
        _ => Err(ServiceError::invalid_argument("sort", "must be downloads, likes or last_modified")),
    }
}

/// A repository that a search found.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FoundRepo {
    /// `owner/name`.
    pub repo_id: String,
    /// Downloads of the last month.
    pub downloads: i64,
    /// Of users.
    pub likes: i64,
    /// RFC 3339.
    pub last_modified: Option<String>,
    /// Whether its owner grants access to each user.
    pub is_gated: bool,
    /// What it was made for: `text-generation`.
    pub pipeline_tag: Option<String>,
    /// Whether miLLM can run it; null when its description does not tell.
    pub supported: Option<bool>,
}

impl From<&downloader::FoundRepo> for FoundRepo {
    fn from(repo: &downloader::FoundRepo) -> Self {
        Self {
            repo_id: repo.repo_id.clone(),
            downloads: repo.downloads,
            likes: repo.likes,
            last_modified: time(repo.last_modified_time.as_ref()),
            is_gated: repo.gated,
            pipeline_tag: some(&repo.pipeline_tag),
            supported: match repo.support() {
                Support::Unspecified => None,
                Support::Supported => Some(true),
                Support::Unsupported => Some(false),
            },
        }
    }
}

/// How the hub has answered lately.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Hub {
    /// Its host.
    pub host: String,
    /// Of the circuit breaker.
    pub state: Breaker,
    /// Since the last success.
    pub consecutive_failures: u32,
    /// When it is asked again, while the breaker is open (RFC 3339).
    pub next_try_at: Option<String>,
    /// Of the last failure.
    pub last_error: Option<String>,
    /// RFC 3339.
    pub last_error_at: Option<String>,
}

/// The circuit breaker in front of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// Calls go through.
    Closed,
    /// Calls fail at once: the hub failed too often in a row.
    Open,
    /// One call may try; its result decides.
    HalfOpen,
}

impl From<&downloader::HubStatus> for Hub {
    fn from(hub: &downloader::HubStatus) -> Self {
        Self {
            host: hub.host.clone(),
            state: match hub.state() {
                State::Closed | State::Unspecified => Breaker::Closed,
                State::Open => Breaker::Open,
                State::HalfOpen => Breaker::HalfOpen,
            },
            consecutive_failures: hub.consecutive_failures,
            next_try_at: time(hub.next_try_time.as_ref()),
            last_error: some(&hub.last_error),
            last_error_at: time(hub.last_error_time.as_ref()),
        }
    }
}
