//! The Hugging Face hub: the results of a search, and the state of the connection to it.

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
    /// A part of the repository's name.
    pub q: String,
    /// The owner of the repositories; any unless given.
    pub author: String,
    /// The order: `downloads`, `likes` or `last_modified`; the hub's own order unless given.
    pub sort: String,
    /// The maximum number of repositories; 20 unless given.
    #[param(value_type = Option<u32>)]
    pub limit: String,
}

impl TryFrom<SearchQuery> for SearchReposRequest {
    type Error = ServiceError;

    /// # Errors
    ///
    /// INVALID_ARGUMENT for `sort` or `limit`.
    fn try_from(query: SearchQuery) -> Result<Self, ServiceError> {
        let limit = match query.limit.as_str() {
            "" => 0,
            text => text.parse().map_err(|_| ServiceError::invalid_argument("limit", "must be a number"))?,
        };
        let sort = parse_sort(&query.sort)?.into();
        Ok(Self { query: query.q, author: query.author, sort, limit, hf_token: String::new() })
    }
}

/// Parses the order of a search. An empty text is the hub's own order; case does not matter.
///
/// # Errors
///
/// INVALID_ARGUMENT for `sort` if the text is anything else.
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
    /// Downloads in the last month.
    pub downloads: i64,
    /// Likes by users of the hub.
    pub likes: i64,
    /// The time of the last change (RFC 3339).
    pub last_modified: Option<String>,
    /// True if users have to request access.
    pub is_gated: bool,
    /// The task that the model is for, such as `text-generation`.
    pub pipeline_tag: Option<String>,
    /// True if miLLM can run the model; null if the repository's description does not tell.
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

/// The state of the connection to the hub.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Hub {
    /// The hub's host name.
    pub host: String,
    /// The state of the circuit breaker.
    pub state: Breaker,
    /// Failures in a row since the last success.
    pub consecutive_failures: u32,
    /// The time of the next call, while the circuit breaker is open (RFC 3339).
    pub next_try_at: Option<String>,
    /// The last failure as a sentence.
    pub last_error: Option<String>,
    /// The time of the last failure (RFC 3339).
    pub last_error_at: Option<String>,
}

/// The circuit breaker in front of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// Calls pass.
    Closed,
    /// Calls fail at once, because the hub failed too often in a row.
    Open,
    /// One call may pass. Its result closes or opens the circuit breaker.
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
