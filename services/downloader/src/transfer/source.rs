//! The source of a file's bytes. The hub is asked once for the signed link, and all ranges share it. When the link has
//! expired, the first range that notices asks the hub again for all.

use std::ops::Range;

use millm_kit::{Secret, names::RepoId};
use reqwest::Response;
use tokio::sync::Mutex;
use url::Url;

use crate::hub::{
    client::{FileAt, Hub, OpenedFile},
    error::HubError,
    path::RepoPath,
};

/// A file on the hub, and the link to it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) hub: Hub,
    pub(crate) repo: RepoId,
    pub(crate) commit: String,
    pub(crate) path: RepoPath,
    pub(crate) token: Option<Secret>,
    link: Mutex<Link>,
}

#[derive(Debug, Clone)]
enum Link {
    Unknown,
    /// The hub serves the file itself.
    Hub,
    Signed(Url),
}

impl Source {
    /// Makes the source of a file. The hub is not asked yet.
    pub(crate) fn new(hub: Hub, repo: RepoId, commit: String, path: RepoPath, token: Option<Secret>) -> Self {
        Self { hub, repo, commit, path, token, link: Mutex::new(Link::Unknown) }
    }

    /// Sends one request for a range, or for the whole file: the status is 200, 206 or 416.
    ///
    /// # Errors
    ///
    /// Returns why this attempt failed.
    pub(crate) async fn open(&self, range: Option<Range<u64>>) -> Result<Response, HubError> {
        let url = {
            let mut link = self.link.lock().await;
            match &*link {
                Link::Signed(url) => url.clone(),
                Link::Hub => {
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
        // Another range has resolved the link meanwhile.
        Box::pin(self.open(range)).await
    }

    /// Makes the next request ask the hub where the file is.
    pub(crate) async fn forget_link(&self) {
        *self.link.lock().await = Link::Unknown;
    }

    async fn resolve(&self, link: &mut Link, range: Option<Range<u64>>) -> Result<Response, HubError> {
        let OpenedFile { response, signed_url } = self.ask_hub(range).await?;
        *link = signed_url.map_or(Link::Hub, Link::Signed);
        Ok(response)
    }

    async fn ask_hub(&self, range: Option<Range<u64>>) -> Result<OpenedFile, HubError> {
        let file =
            FileAt { repo: &self.repo, commit: &self.commit, path: &self.path, token: self.token.as_ref() };
        self.hub.open(file, range).await
    }
}
