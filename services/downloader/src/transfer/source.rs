//! Where a file's bytes come from: the hub is asked once for its signed link, all ranges share it, and the hub is
//! asked again, once for all, when the link has expired.

use std::ops::Range;

use millm_kit::{Secret, names::RepoId};
use reqwest::Response;
use tokio::sync::Mutex;
use url::Url;

use crate::hub::{FileAt, Hub, HubFault, Opened, RepoPath};

#[derive(Debug)]
pub struct Source {
    pub hub: Hub,
    pub repo: RepoId,
    pub commit: String,
    pub path: RepoPath,
    pub token: Option<Secret>,
    link: Mutex<Link>,
}

#[derive(Debug, Clone)]
enum Link {
    Unknown,
    /// The hub serves the file itself.
    Home,
    Signed(Url),
}

impl Source {
    pub fn new(hub: Hub, repo: RepoId, commit: String, path: RepoPath, token: Option<Secret>) -> Self {
        Self { hub, repo, commit, path, token, link: Mutex::new(Link::Unknown) }
    }

    /// One request for a range, or for all: 200, 206 or 416.
    pub async fn open(&self, range: Option<Range<u64>>) -> Result<Response, HubFault> {
        let url = {
            let mut link = self.link.lock().await;
            match &*link {
                Link::Signed(url) => url.clone(),
                Link::Home => {
                    drop(link);
                    return Ok(self.ask_hub(range).await?.response);
                }
                Link::Unknown => return self.resolve(&mut link, range).await,
            }
        };
        if let Some(response) = self.hub.open_signed(&url, range.clone()).await? {
            return Ok(response);
        }
        let mut link = self.link.lock().await;
        if matches!(&*link, Link::Signed(present) if *present == url) {
            *link = Link::Unknown;
            tracing::debug!(file = %self.path, "the link has expired");
            return self.resolve(&mut link, range).await;
        }
        drop(link);
        // Another one has asked already; what fails now is a new fault.
        Box::pin(self.open(range)).await
    }

    /// The next request asks the hub where the file is.
    pub async fn forget_link(&self) {
        *self.link.lock().await = Link::Unknown;
    }

    async fn resolve(&self, link: &mut Link, range: Option<Range<u64>>) -> Result<Response, HubFault> {
        let Opened { response, signed } = self.ask_hub(range).await?;
        *link = signed.map_or(Link::Home, Link::Signed);
        Ok(response)
    }

    async fn ask_hub(&self, range: Option<Range<u64>>) -> Result<Opened, HubFault> {
        let file =
            FileAt { repo: &self.repo, commit: &self.commit, path: &self.path, token: self.token.as_ref() };
        self.hub.open(file, range).await
    }
}
