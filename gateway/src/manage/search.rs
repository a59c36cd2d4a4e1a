//! `GET /api/search?q=`: repositories of the hub by part of their name. `author`, `sort` and `limit` may be given.

use std::{collections::HashMap, sync::Arc};

use axum::extract::{Query, State};
use millm_kit::{
    ServiceError,
    view::hub::{FoundRepoView, parse_sort},
};
use millm_proto::downloader::v1::SearchReposRequest;

use super::{Answer, success};
use crate::app::{App, from_downloader};

pub async fn show(State(app): State<Arc<App>>, Query(query): Query<HashMap<String, String>>) -> Answer {
    let request = request(query)?;
    let found = app.downloader().search_repos(request).await.map_err(from_downloader)?.into_inner();
    Ok(success(found.repos.iter().map(FoundRepoView::from).collect::<Vec<_>>()))
}

fn request(mut query: HashMap<String, String>) -> Result<SearchReposRequest, ServiceError> {
    let mut take = |name: &str| query.remove(name).unwrap_or_default();
    let limit = match take("limit") {
        text if text.is_empty() => 0,
        text => text.parse().map_err(|_| ServiceError::invalid_argument("limit", "must be a number"))?,
    };
    Ok(SearchReposRequest {
        query: take("q"),
        author: take("author"),
        sort: parse_sort(&take("sort"))?.into(),
        limit,
        hf_token: String::new(),
    })
}
