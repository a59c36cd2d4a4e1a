//! The hub's client: our own calls over HTTP. Every answer is taken for hostile: bounded, checked, typed.
//!
//! The token goes to the hub's own origin and nowhere else; redirects are followed by hand to keep that so.

mod answers;
mod breaker;
mod fault;
mod guard;
mod path;
mod search;
mod signed;
mod tokens;
mod wire;

use std::{ops::Range, sync::Arc, sync::Once, time::Duration};

use http::{StatusCode, header};
use millm_kit::{Reason, Secret, ServiceError, names::RepoId};
use tokio::{sync::OnceCell, time::Instant};
use url::Url;

pub use answers::{RemoteFile, RepoInfo};
pub use breaker::{BreakerState, Health};
pub use fault::{Asked, HubFault, What};
pub use path::{RepoPath, is_commit};
pub use search::{Found, Search, Sort};
pub use signed::Opened;

use crate::{error::BuildError, policy::Policy};
use breaker::Breaker;
use guard::Guard;
use path::encode_segment;
use tokens::Tokens;
use wire::{Call, settle};

const MOST_PAGES: usize = 200;
const MOST_ANSWER_BYTES: u64 = 32 << 20;
/// Bytes a second below which reading a header is given up.
const SLOWEST_READ: u64 = 64 << 10;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Without a slash at the end; a mirror may live below a path.
    endpoint: String,
    url: Url,
    http: reqwest::Client,
    breaker: Breaker,
    tokens: Tokens,
    policy: Policy,
    guard: OnceCell<Guard>,
}

/// A file at a pinned commit, and who asks for it.
#[derive(Debug, Clone, Copy)]
pub struct FileAt<'a> {
    pub repo: &'a RepoId,
    pub commit: &'a str,
    pub path: &'a RepoPath,
    pub token: Option<&'a Secret>,
}

impl Hub {
    pub fn new(endpoint: &Url, policy: Policy) -> Result<Self, BuildError> {
        static PROVIDER: Once = Once::new();
        // Whoever came first in this process is as good.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(policy.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true)
            // Requests of one file must not share a connection's window with another's.
            .http1_only()
            .user_agent(concat!("millm/", env!("CARGO_PKG_VERSION")));
        let local = match endpoint.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        if local {
            http = http.no_proxy();
        }
        Ok(Self(Arc::new(Inner {
            endpoint: endpoint.as_str().trim_end_matches('/').to_owned(),
            url: endpoint.clone(),
            http: http.build().map_err(BuildError::Http)?,
            breaker: Breaker::new(policy.breaker_failures, policy.breaker_pause),
            tokens: Tokens::default(),
            policy,
            guard: OnceCell::new(),
        })))
    }

    /// The host's name, for messages.
    pub fn host(&self) -> &str {
        self.0.url.host_str().unwrap_or("the hub")
    }

    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// How it has answered lately.
    pub fn health(&self) -> Health {
        self.0.breaker.health()
    }

    /// What a revision is now: its commit, gating, licence.
    pub async fn info(
        &self,
        repo: &RepoId,
        revision: &str,
        token: Option<&Secret>,
    ) -> Result<RepoInfo, ServiceError> {
        let url = format!("{}/api/models/{repo}/revision/{}", self.0.endpoint, encode_segment(revision));
        let asked = self.asked(repo, What::Revision(revision), token);
        match self.api(&url, asked, token).await {
            Ok((body, _)) => RepoInfo::parse(&body, repo).ok_or_else(|| self.no_hub()),
            Err(error) => Err(self.explained(error, repo, token).await),
        }
    }

    /// The hub hides much behind "not found": a bad token, and that the name is a dataset's.
    async fn explained(&self, error: ServiceError, repo: &RepoId, token: Option<&Secret>) -> ServiceError {
        if !matches!(error.reason, Reason::RepoNotFound | Reason::GatedModelNoToken) {
            return error;
        }
        if let Some(token) = token
            && let Err(rejected) = self.check_token(token).await
        {
            return rejected;
        }
        let url = format!("{}/api/datasets/{repo}", self.0.endpoint);
        let asked = self.asked(repo, What::Other, token);
        if error.reason == Reason::RepoNotFound && self.api_once(&url, asked, token).await.is_ok() {
            return ServiceError::dataset_not_model(repo);
        }
        error
    }

    /// All files of a commit, page by page.
    pub async fn tree(
        &self,
        repo: &RepoId,
        commit: &str,
        token: Option<&Secret>,
    ) -> Result<Vec<RemoteFile>, ServiceError> {
        let mut url =
            format!("{}/api/models/{repo}/tree/{commit}?recursive=true&expand=false", self.0.endpoint);
        let mut files = Vec::new();
        for _ in 0..MOST_PAGES {
            let asked = self.asked(repo, What::Revision(commit), token);
            let (body, next) = self.api(&url, asked, token).await?;
            answers::tree_page(&body, &mut files)?.ok_or_else(|| self.no_hub())?;
            let Some(next) = next else { return Ok(files) };
            url = next;
        }
        Err(ServiceError::download_failed(format!("'{repo}' has too many files")))
    }

    /// A whole small file, at most `most` bytes.
    pub async fn read(&self, file: FileAt<'_>, most: u64) -> Result<Vec<u8>, ServiceError> {
        self.retrying(|| async {
            let wire::Answer { response, permit, .. } = self.answer(file, None).await?;
            let end = match response.status() {
                StatusCode::OK => self.body(response, most, self.time_for(most)).await,
                status => Err(HubFault::passing(format!("{}: unexpected {status}", file.path))),
            };
            settle(permit, end)
        })
        .await
    }

    /// The first `length` bytes of a file; fewer where it ends before.
    pub async fn read_start(&self, file: FileAt<'_>, length: u64) -> Result<Vec<u8>, ServiceError> {
        self.retrying(|| async {
            let wire::Answer { response, permit, .. } = self.answer(file, Some(0..length)).await?;
            let end = match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                    self.take(response, length, self.time_for(length)).await
                }
                status => Err(HubFault::passing(format!("{}: unexpected {status}", file.path))),
            };
            settle(permit, end)
        })
        .await
    }

    /// One attempt at a file or a part of it, redirects followed: 200, 206 or 416. An open end is `u64::MAX`.
    pub async fn open(&self, file: FileAt<'_>, range: Option<Range<u64>>) -> Result<Opened, HubFault> {
        let wire::Answer { response, permit, url, .. } = self.answer(file, range).await?;
        let signed = (!self.is_home(&url)).then_some(url);
        settle(permit, Ok(Opened { response, signed }))
    }

    async fn answer(
        &self,
        file: FileAt<'_>,
        range: Option<Range<u64>>,
    ) -> Result<wire::Answer<'_>, HubFault> {
        let url =
            format!("{}/{}/resolve/{}/{}", self.0.endpoint, file.repo, file.commit, file.path.encoded());
        let call = Call {
            url: &url,
            asked: self.asked(file.repo, What::File(file.path.as_str()), file.token),
            token: file.token,
            range: range.as_ref(),
            deadline: Instant::now() + self.0.policy.stall_timeout,
        };
        let answer = self.send(&call).await?;
        if answer.commit.as_deref() != Some(file.commit) {
            return Err(HubFault::Final(self.no_hub()));
        }
        let encoding = answer.response.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(HubFault::Final(ServiceError::download_failed(format!(
                "{} sends '{}' in an encoding that was not asked for",
                self.host(),
                file.path
            ))));
        }
        Ok(answer)
    }

    /// When so many bytes must have come.
    fn time_for(&self, bytes: u64) -> Instant {
        Instant::now() + self.0.policy.answer_timeout + Duration::from_secs(bytes / SLOWEST_READ)
    }

    fn asked<'a>(&'a self, repo: &'a RepoId, what: What<'a>, token: Option<&Secret>) -> Asked<'a> {
        Asked { repo: Some(repo), what, with_token: token.is_some(), endpoint: &self.0.endpoint }
    }

    fn no_hub(&self) -> ServiceError {
        ServiceError::download_failed(format!("{} is not a Hugging Face hub", self.host()))
    }

    /// An API call's body and the next page's address.
    async fn api(
        &self,
        url: &str,
        asked: Asked<'_>,
        token: Option<&Secret>,
    ) -> Result<(Vec<u8>, Option<String>), ServiceError> {
        self.retrying(|| self.api_once(url, asked, token)).await
    }

    async fn api_once(
        &self,
        url: &str,
        asked: Asked<'_>,
        token: Option<&Secret>,
    ) -> Result<(Vec<u8>, Option<String>), HubFault> {
        let deadline = Instant::now() + self.0.policy.answer_timeout;
        let wire::Answer { response, permit, .. } =
            self.send(&Call { url, asked, token, range: None, deadline }).await?;
        if response.status() != StatusCode::OK {
            return Err(HubFault::Final(self.no_hub()));
        }
        let next = answers::next_page(response.headers());
        let next = next.filter(|next| Url::parse(next).is_ok_and(|url| self.is_home(&url)));
        let body = settle(permit, self.body(response, MOST_ANSWER_BYTES, deadline).await)?;
        Ok((body, next))
    }

    /// Asks again as the policy says. While the hub is left alone this ends at once: somebody waits for an answer.
    async fn retrying<T, F: Future<Output = Result<T, HubFault>>>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ServiceError> {
        let mut pauses = self.0.policy.pauses();
        loop {
            let fault = match attempt().await {
                Ok(value) => return Ok(value),
                Err(fault @ (HubFault::Final(_) | HubFault::Resting { .. })) => {
                    return Err(fault.give_up(self.host()));
                }
                Err(fault) => fault,
            };
            let Some(pause) = pauses.next() else { return Err(fault.give_up(self.host())) };
            tracing::debug!(why = fault.why(), ?pause, "asking the hub again");
            tokio::time::sleep(self.0.policy.pause(pause, fault.asked_wait())).await;
        }
    }
}
