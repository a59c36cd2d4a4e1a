//! Conversions between the contract's messages and the types of this crate: the hub's status, searches, and downloads
//! that ended in an earlier process.

use std::time::SystemTime;

use millm_kit::{Secret, ServiceError};
use millm_proto::{
    catalog::v1::{Model, model},
    downloader::v1::{
        Download, FoundRepo, HubStatus, SearchReposRequest, SearchReposResponse, download,
        found_repo::Support, hub_status::State, search_repos_request,
    },
};

use crate::{
    context::Context,
    hub::{
        breaker::BreakerState,
        client::Hub,
        search::{ListedRepo, Search, Sort},
    },
    progress::queued_snapshot,
};

/// Returns the snapshot of a download that ended in an earlier process; `None` when the row has not ended.
pub(super) fn ended_download(row: &Model) -> Option<Download> {
    let mut download = queued_snapshot(row);
    download.start_time = row.create_time;
    download.end_time = row.update_time;
    match row.state() {
        model::State::Ready => {
            download.set_state(download::State::Succeeded);
            download.fraction = 1.0;
        }
        model::State::Error => {
            download.set_state(download::State::Failed);
            download.error.clone_from(&row.error);
        }
        _ => return None,
    }
    Some(download)
}

/// Returns the state of the hub's circuit breaker.
pub(super) fn hub_status(hub: &Hub) -> HubStatus {
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
        next_try_time: health.next_probe.map(|left| (SystemTime::now() + left).into()),
        last_error: last_error.unwrap_or_default(),
        last_error_time: last_error_time.map(Into::into),
    }
}

/// Searches repositories.
///
/// # Errors
///
/// INVALID_ARGUMENT, HUB_UNAVAILABLE, INVALID_HF_TOKEN.
pub(super) async fn search(
    context: &Context,
    request: SearchReposRequest,
) -> Result<SearchReposResponse, ServiceError> {
    use search_repos_request::Sort as RequestedSort;
    let sort = match RequestedSort::try_from(request.sort) {
        Ok(RequestedSort::Unspecified) => None,
        Ok(RequestedSort::Downloads) => Some(Sort::Downloads),
        Ok(RequestedSort::Likes) => Some(Sort::Likes),
        Ok(RequestedSort::LastModified) => Some(Sort::LastModified),
        Err(_) => {
            return Err(ServiceError::invalid_argument("sort", "must be downloads, likes or last_modified"));
        }
    };
    let search = Search::new(&request.query, &request.author, sort, request.limit)?;
    let token = Secret::new(request.hf_token).or_else(|| context.token.clone());
    let found = context.hub.search(&search, token.as_ref()).await?;
    Ok(SearchReposResponse { repos: found.into_iter().map(repo).collect() })
}

fn repo(found: ListedRepo) -> FoundRepo {
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
