//! The hub's client: our own calls over HTTP. Every answer is taken for hostile: bounded, checked, typed.
//!
//! The token goes to the hub's own origin and nowhere else; redirects are followed by hand to keep that so.

mod answers;
mod fault;
mod guard;
mod path;
mod signed;

use std::{ops::Range, sync::Arc, sync::Once, time::Duration};

use futures::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use millm_kit::{Secret, ServiceError, names::RepoId};
use reqwest::Response;
use tokio::sync::OnceCell;
use url::Url;

pub use answers::{RemoteFile, RepoInfo};
pub use fault::{Asked, HubFault, What};
pub use path::{RepoPath, is_commit};
pub use signed::Opened;

use crate::{error::BuildError, policy::Policy};
use fault::judge;
use guard::Guard;
use path::encode_segment;

const MOST_REDIRECTS: usize = 8;
const MOST_PAGES: usize = 200;
const MOST_ANSWER_BYTES: u64 = 32 << 20;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Without a slash at the end; a mirror may live below a path.
    endpoint: String,
    url: Url,
    http: reqwest::Client,
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

    /// What a revision is now: its commit, gating, licence.
    pub async fn info(
        &self,
        repo: &RepoId,
        revision: &str,
        token: Option<&Secret>,
    ) -> Result<RepoInfo, ServiceError> {
        let url = format!("{}/api/models/{repo}/revision/{}", self.0.endpoint, encode_segment(revision));
        let asked = self.asked(repo, What::Revision(revision), token);
        let (body, _) = self.api(&url, asked, token).await?;
        RepoInfo::parse(&body, repo).ok_or_else(|| self.no_hub())
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
            let response = self.open(file, None).await?.response;
            if response.status() != StatusCode::OK {
                return Err(HubFault::passing(format!("{}: unexpected {}", file.path, response.status())));
            }
            body(response, most).await
        })
        .await
    }

    /// The first `length` bytes of a file; fewer where it ends before.
    pub async fn read_start(&self, file: FileAt<'_>, length: u64) -> Result<Vec<u8>, ServiceError> {
        self.retrying(|| async {
            let response = self.open(file, Some(0..length)).await?.response;
            if !matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
                return Err(HubFault::passing(format!("{}: unexpected {}", file.path, response.status())));
            }
            let mut bytes = Vec::new();
            let mut stream = response.bytes_stream();
            while let Some(chunk) = stream.next().await {
                bytes.extend_from_slice(&chunk?);
                if bytes.len() as u64 >= length {
                    bytes.truncate(length as usize);
                    break;
                }
            }
            Ok(bytes)
        })
        .await
    }

    /// One attempt at a file or a part of it, redirects followed: 200, 206 or 416. An open end is `u64::MAX`.
    pub async fn open(&self, file: FileAt<'_>, range: Option<Range<u64>>) -> Result<Opened, HubFault> {
        let url =
            format!("{}/{}/resolve/{}/{}", self.0.endpoint, file.repo, file.commit, file.path.encoded());
        let asked = self.asked(file.repo, What::File(file.path.as_str()), file.token);
        let sent = self.send(&url, asked, file.token, range.as_ref());
        let answer = tokio::time::timeout(self.0.policy.stall_timeout, sent)
            .await
            .map_err(|_| HubFault::passing(format!("{} sent nothing", self.host())))??;
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
        let signed = (!self.is_home(&answer.url)).then_some(answer.url);
        Ok(Opened { response: answer.response, signed })
    }

    fn asked<'a>(&'a self, repo: &'a RepoId, what: What<'a>, token: Option<&Secret>) -> Asked<'a> {
        Asked { repo, what, with_token: token.is_some(), endpoint: &self.0.endpoint }
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
        self.retrying(|| async {
            let call = async {
                let response = self.send(url, asked, token, None).await?.response;
                if response.status() != StatusCode::OK {
                    return Err(HubFault::Final(self.no_hub()));
                }
                let next = answers::next_page(response.headers());
                let next = next.filter(|next| Url::parse(next).is_ok_and(|url| self.is_home(&url)));
                Ok((body(response, MOST_ANSWER_BYTES).await?, next))
            };
            tokio::time::timeout(self.0.policy.answer_timeout, call)
                .await
                .map_err(|_| HubFault::passing(format!("{} did not answer in time", self.host())))?
        })
        .await
    }

    async fn retrying<T, F: Future<Output = Result<T, HubFault>>>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ServiceError> {
        let mut pauses = self.0.policy.pauses();
        loop {
            let fault = match attempt().await {
                Ok(value) => return Ok(value),
                Err(HubFault::Final(error)) => return Err(error),
                Err(fault) => fault,
            };
            let Some(pause) = pauses.next() else { return Err(fault.give_up(self.host())) };
            tracing::debug!(why = fault.why(), ?pause, "asking the hub again");
            tokio::time::sleep(self.0.policy.pause(pause, fault.asked_wait())).await;
        }
    }

    fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.0.url.origin()
    }

    /// One request and where its redirects lead: within the hub's origin with the token, elsewhere without.
    async fn send(
        &self,
        url: &str,
        asked: Asked<'_>,
        token: Option<&Secret>,
        range: Option<&Range<u64>>,
    ) -> Result<Answer, HubFault> {
        let mut url = Url::parse(url).map_err(|e| HubFault::Final(ServiceError::internal(e)))?;
        let mut commit = None;
        for _ in 0..=MOST_REDIRECTS {
            let home = self.is_home(&url);
            let response = self.request(url.clone(), home.then_some(token).flatten(), range).await?;
            if home && let Some(value) = response.headers().get("x-repo-commit") {
                commit = value.to_str().ok().filter(|commit| is_commit(commit)).map(str::to_owned);
            }
            let status = response.status();
            if status.is_redirection() {
                url = redirect_target(&url, &response)?;
                let guard = self.0.guard.get_or_init(|| Guard::for_hub(&self.0.url)).await;
                let checked = if self.is_home(&url) { Ok(()) } else { guard.check(&url).await };
                checked.map_err(|why| HubFault::Final(ServiceError::download_failed(why)))?;
                continue;
            }
            if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok(Answer { response, commit, url });
            }
            if home {
                return Err(judge(asked, status, response.headers()));
            }
            // A signed link that has expired, or a tired CDN: the next attempt begins at the hub again.
            let wait = crate::policy::asked_wait(response.headers());
            return Err(HubFault::Passing { why: format!("the hub's file server answered {status}"), wait });
        }
        Err(HubFault::Final(ServiceError::download_failed(format!("{} redirects in circles", self.host()))))
    }

    async fn request(
        &self,
        url: Url,
        token: Option<&Secret>,
        range: Option<&Range<u64>>,
    ) -> Result<Response, HubFault> {
        let mut request = self.0.http.get(url).header(header::ACCEPT_ENCODING, "identity");
        if let Some(range) = range {
            let value = match range.end {
                u64::MAX => format!("bytes={}-", range.start),
                end => format!("bytes={}-{}", range.start, end.saturating_sub(1)),
            };
            request = request.header(header::RANGE, value);
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_| HubFault::Final(ServiceError::invalid_hf_token()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        Ok(request.send().await?)
    }
}

struct Answer {
    response: Response,
    /// `X-Repo-Commit` of the hub's own answer.
    commit: Option<String>,
    /// Where it came from in the end.
    url: Url,
}

fn redirect_target(from: &Url, response: &Response) -> Result<Url, HubFault> {
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    location
        .and_then(|location| from.join(location).ok())
        .ok_or_else(|| HubFault::Final(ServiceError::download_failed("the hub redirected to nowhere")))
}

async fn body(response: Response, most: u64) -> Result<Vec<u8>, HubFault> {
    let mut bytes = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        if (bytes.len() + chunk.len()) as u64 > most {
            let why = format!("an answer of the hub is longer than {most} bytes");
            return Err(HubFault::Final(ServiceError::download_failed(why)));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
