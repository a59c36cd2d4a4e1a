//! What the hub's client knows and finds, in the contract's words.

use std::time::SystemTime;

use millm_kit::{Secret, ServiceError};
use millm_proto::downloader::v1::{
    FoundRepo, HubStatus, SearchReposRequest, SearchReposResponse, found_repo::Support, hub_status::State,
    search_repos_request,
};

use crate::{
    context::Context,
    hub::{BreakerState, Found, Hub, Search, Sort},
};

pub fn status(hub: &Hub) -> HubStatus {
    let health = hub.health();
    let state = match health.state {
        BreakerState::Closed => State::Closed,
        BreakerState::Open => State::Open,
        BreakerState::HalfOpen => State::HalfOpen,
    };
    let (last_error, last_error_time) = health.last_error.unzip();
    HubStatus {
        host: hub.host().to_owned(),
        state: state.into(),
        consecutive_failures: health.failures,
        next_try_time: health.next_try.map(|left| (SystemTime::now() + left).into()),
        last_error: last_error.unwrap_or_default(),
        last_error_time: last_error_time.map(Into::into),
    }
}

/// Errors: INVALID_ARGUMENT, HUB_UNAVAILABLE, INVALID_HF_TOKEN.
pub async fn search(
    context: &Context,
    request: SearchReposRequest,
) -> Result<SearchReposResponse, ServiceError> {
    use search_repos_request::Sort as Asked;
    let sort = match Asked::try_from(request.sort) {
        Ok(Asked::Unspecified) => None,
        Ok(Asked::Downloads) => Some(Sort::Downloads),
        Ok(Asked::Likes) => Some(Sort::Likes),
        Ok(Asked::LastModified) => Some(Sort::LastModified),
        Err(_) => {
            return Err(ServiceError::invalid_argument("sort", "must be downloads, likes or last_modified"));
        }
    };
    let search = Search::new(&request.query, &request.author, sort, request.limit)?;
    let token = Secret::new(request.hf_token).or_else(|| context.token.clone());
    let found = context.hub.search(&search, token.as_ref()).await?;
    Ok(SearchReposResponse { repos: found.into_iter().map(repo).collect() })
}

fn repo(found: Found) -> FoundRepo {
    let support = match found.supported {
        None => Support::Unspecified,
        Some(true) => Support::Supported,
        Some(false) => Support::Unsupported,
    };
    FoundRepo {
        repo_id: found.repo.to_string(),
        downloads: found.downloads as i64,
        likes: found.likes as i64,
        last_modified_time: found.last_modified,
        gated: found.gated,
        pipeline_tag: found.pipeline_tag,
        support: support.into(),
    }
}
