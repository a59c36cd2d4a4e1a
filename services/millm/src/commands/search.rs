//! `millm search`: repositories of the hub by part of their name.

use anyhow::Result;
use millm_api::hub::{FoundRepo, parse_sort};
use millm_proto::downloader::v1::SearchReposRequest;

use crate::{
    args::Search,
    client::Server,
    output::{self, Misuse},
};

/// Prints the repositories that a search finds.
pub async fn run(server: &Server, args: Search, token: String, json: bool) -> Result<()> {
    let request = SearchReposRequest {
        query: args.query,
        author: args.author,
        sort: parse_sort(&args.sort).map_err(|e| Misuse(e.message))?.into(),
        limit: args.limit,
        hf_token: token,
    };
    let found = server.downloader().search_repos(request).await.map_err(|s| server.explain(&s))?.into_inner();
    let repos: Vec<_> = found.repos.iter().map(FoundRepo::from).collect();
    if json {
        return output::json(&repos);
    }
    if repos.is_empty() {
        eprintln!("nothing was found");
        return Ok(());
    }
    let rows: Vec<_> = repos.iter().map(row).collect();
    output::table(&["REPOSITORY", "DOWNLOADS", "LIKES", "UPDATED", "RUNS HERE", "TASK"], &[1, 2], &rows)
}

fn row(repo: &FoundRepo) -> Vec<String> {
    let runs = match repo.supported {
        Some(true) => "yes",
        Some(false) => "no",
        None => "?",
    };
    let day = repo.last_modified.as_deref().and_then(|time| time.split('T').next()).unwrap_or("-");
    vec![
        repo.repo_id.clone(),
        repo.downloads.to_string(),
        repo.likes.to_string(),
        day.to_owned(),
        if repo.is_gated { format!("{runs}, gated") } else { runs.to_owned() },
        repo.pipeline_tag.clone().unwrap_or_default(),
    ]
}
