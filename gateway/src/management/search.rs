//! `GET /api/search`: repositories of the hub by part of their name.

use std::sync::Arc;

use axum::extract::State;
use millm_api::{
    Success,
    hub::{FoundRepo, SearchQuery},
};
use millm_proto::downloader::v1::SearchReposRequest;

use super::{Answer, success};
use crate::{
    extract::Query,
    state::{AppState, from_downloader},
};

/// Finds repositories of the hub by part of their name.
#[utoipa::path(
    get,
    path = "/api/search",
    params(SearchQuery),
    responses((status = 200, body = Success<Vec<FoundRepo>>))
)]
pub async fn find(
    State(app): State<Arc<AppState>>,
    Query(query): Query<SearchQuery>,
) -> Answer<Vec<FoundRepo>> {
    let request: SearchReposRequest = query.try_into()?;
    let found = app.downloader().search_repos(request).await.map_err(from_downloader)?.into_inner();
    Ok(success(found.repos.iter().map(FoundRepo::from).collect()))
}
