//! The hub's client: what a repository is, which files it has, and their bytes.

use std::{ops::Range, sync::Arc, time::Duration};

use http::{StatusCode, header};
use millm_kit::{Reason, Secret, ServiceError, names::RepoId};
use reqwest::Response;
use tokio::time::Instant;
use url::Url;

use super::{
    api_types::{self, RemoteFile, RepoInfo},
    breaker::Health,
    dataset_card::{DataConfig, configs},
    error::{HubError, RequestContext, RequestTarget},
    http::{HubHttp, HubRequest, HubResponse, settle},
    path::{RepoPath, encode_segment},
    repo_kind::RepoKind,
    search::{ListedRepo, Search, parse_found},
    signed_url,
    token_check::TokenCheck,
};
use crate::{error::BuildError, limits::HubLimits};

const MAX_PAGES: usize = 200;
const MAX_ANSWER_BYTES: u64 = 32 << 20;
/// A small file or a header that comes slower than this fails, in bytes a second.
const LOWEST_READ_SPEED: u64 = 64 << 10;

/// A client of one hub. It is cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    http: HubHttp,
    tokens: Arc<TokenCheck>,
    /// The repositories that are asked for.
    kind: RepoKind,
}

/// A file at a pinned commit, and the token to ask for it with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileAt<'a> {
    pub(crate) repo: &'a RepoId,
    pub(crate) commit: &'a str,
    pub(crate) path: &'a RepoPath,
    pub(crate) token: Option<&'a Secret>,
}

/// An answer with the start or a range of a file.
#[derive(Debug)]
pub(crate) struct OpenedFile {
    pub(crate) response: Response,
    /// The signed link, when a file server sent the answer. It serves further ranges until it expires.
    pub(crate) signed_url: Option<Url>,
}

impl Hub {
    /// Makes a client for the hub at `endpoint`.
    ///
    /// # Errors
    ///
    /// Returns [`BuildError::Http`].
    pub(crate) fn new(endpoint: &Url, limits: HubLimits) -> Result<Self, BuildError> {
        let http = HubHttp::new(endpoint, limits)?;
        Ok(Self { http, tokens: Arc::default(), kind: RepoKind::Model })
    }

    /// Returns a client for the hub's datasets. It shares connections, circuit breaker and tokens with this one.
    pub(crate) fn datasets(&self) -> Self {
        Self { kind: RepoKind::Dataset, ..self.clone() }
    }

    /// Returns the host's name, for messages.
    pub(crate) fn host(&self) -> &str {
        self.http.host()
    }

    /// Returns the times and counts for this hub.
    pub(crate) fn limits(&self) -> &HubLimits {
        self.http.limits()
    }

    /// Returns the state of the circuit breaker.
    pub(crate) fn health(&self) -> Health {
        self.http.breaker().health()
    }

    /// Returns the commit, gating and licence of a revision.
    ///
    /// # Errors
    ///
    /// REPO_NOT_FOUND, NOT_FOUND (the revision), GATED_MODEL_NO_TOKEN, GATED_MODEL_NO_ACCESS, INVALID_HF_TOKEN,
    /// HUB_UNAVAILABLE, MODEL_DOWNLOAD_FAILED.
    pub(crate) async fn info(
        &self,
        repo: &RepoId,
        revision: &str,
        token: Option<&Secret>,
    ) -> Result<RepoInfo, ServiceError> {
        let body = self.description(repo, revision, token).await?;
        RepoInfo::parse(&body, repo).ok_or_else(|| self.http.not_a_hub())
    }

    /// Returns the commit of a dataset's revision, and the configurations that its card declares.
    ///
    /// # Errors
    ///
    /// As [`Self::info`].
    pub(crate) async fn dataset_info(
        &self,
        repo: &RepoId,
        revision: &str,
        token: Option<&Secret>,
    ) -> Result<(RepoInfo, Vec<DataConfig>), ServiceError> {
        let body = self.description(repo, revision, token).await?;
        let info = RepoInfo::parse(&body, repo).ok_or_else(|| self.http.not_a_hub())?;
        Ok((info, configs(&body)))
    }

    /// Returns the hub's description of a revision.
    async fn description(
        &self,
        repo: &RepoId,
        revision: &str,
        token: Option<&Secret>,
    ) -> Result<Vec<u8>, ServiceError> {
        let (endpoint, collection) = (self.http.endpoint(), self.kind.collection());
        let url = format!("{endpoint}/api/{collection}/{repo}/revision/{}", encode_segment(revision));
        let context = self.context(repo, RequestTarget::Revision(revision), token);
        match self.call_api(&url, context, token).await {
            Ok((body, _)) => Ok(body),
            Err(error) => Err(self.explain(error, repo, token).await),
        }
    }

    /// Finds the cause of "not found". The hub answers so for a bad token and for a repository of another kind, too.
    async fn explain(&self, error: ServiceError, repo: &RepoId, token: Option<&Secret>) -> ServiceError {
        if !matches!(error.reason, Reason::RepoNotFound | Reason::GatedModelNoToken) {
            return error;
        }
        if let Some(token) = token
            && let Err(rejected) = self.check_token(token).await
        {
            return rejected;
        }
        let url = format!("{}/api/{}/{repo}", self.http.endpoint(), self.kind.other().collection());
        let context = self.context(repo, RequestTarget::Other, token);
        if error.reason == Reason::RepoNotFound && self.call_api_once(&url, context, token).await.is_ok() {
            return self.kind.is_other(repo);
        }
        error
    }

    /// Returns all files of a commit.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::info`]; INVALID_MODEL_FILE if a file's name is dangerous.
    pub(crate) async fn tree(
        &self,
        repo: &RepoId,
        commit: &str,
        token: Option<&Secret>,
    ) -> Result<Vec<RemoteFile>, ServiceError> {
        let endpoint = self.http.endpoint();
        let collection = self.kind.collection();
        let mut url = format!("{endpoint}/api/{collection}/{repo}/tree/{commit}?recursive=true&expand=false");
        let mut files = Vec::new();
        for _ in 0..MAX_PAGES {
            let context = self.context(repo, RequestTarget::Revision(commit), token);
            let (body, next) = self.call_api(&url, context, token).await?;
            api_types::tree_page(&body, &mut files)?.ok_or_else(|| self.http.not_a_hub())?;
            let Some(next) = next else { return Ok(files) };
            url = next;
        }
        Err(ServiceError::download_failed(format!("'{repo}' has too many files")))
    }

    /// Reads a small file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::info`].
    pub(crate) async fn read(&self, file: FileAt<'_>, limit: u64) -> Result<Vec<u8>, ServiceError> {
        self.with_retry(|| async {
            let HubResponse { response, permit, .. } = self.request_file(file, None).await?;
            let body = match response.status() {
                StatusCode::OK => self.http.read_all(response, limit, self.read_deadline(limit)).await,
                status => Err(HubError::transient(format!("{}: unexpected {status}", file.path))),
            };
            settle(permit, body)
        })
        .await
    }

    /// Reads the first `length` bytes of a file; fewer where the file is shorter.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::info`].
    pub(crate) async fn read_start(&self, file: FileAt<'_>, length: u64) -> Result<Vec<u8>, ServiceError> {
        self.with_retry(|| async {
            let HubResponse { response, permit, .. } = self.request_file(file, Some(0..length)).await?;
            let body = match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                    self.http.read_up_to(response, length, self.read_deadline(length)).await
                }
                status => Err(HubError::transient(format!("{}: unexpected {status}", file.path))),
            };
            settle(permit, body)
        })
        .await
    }

    /// Asks once for a file or a range of it, and follows redirects. The status is 200, 206 or 416. An open end is
    /// `u64::MAX`.
    ///
    /// # Errors
    ///
    /// Returns why this attempt failed.
    pub(crate) async fn open(
        &self,
        file: FileAt<'_>,
        range: Option<Range<u64>>,
    ) -> Result<OpenedFile, HubError> {
        let HubResponse { response, permit, url, .. } = self.request_file(file, range).await?;
        let signed_url = (!self.http.is_own_origin(&url)).then_some(url);
        settle(permit, Ok(OpenedFile { response, signed_url }))
    }

    /// Asks once for a range by a link that [`Self::open`] found: 200, 206 or 416. `None` when the link has expired.
    ///
    /// # Errors
    ///
    /// Returns why this attempt failed.
    pub(crate) async fn open_signed(
        &self,
        url: &Url,
        range: Option<Range<u64>>,
    ) -> Result<Option<Response>, HubError> {
        signed_url::open(&self.http, url, range.as_ref()).await
    }

    /// Checks a token with the hub. An answer that says nothing about the token counts as acceptance.
    ///
    /// # Errors
    ///
    /// INVALID_HF_TOKEN when the hub rejects the token.
    pub(crate) async fn check_token(&self, token: &Secret) -> Result<(), ServiceError> {
        let url = format!("{}/api/whoami-v2", self.http.endpoint());
        let context = RequestContext {
            repo: None,
            kind: self.kind,
            target: RequestTarget::Other,
            with_token: true,
            endpoint: self.http.endpoint(),
        };
        let ask = || async { self.call_api_once(&url, context, Some(token)).await.map(|(body, _)| body) };
        self.tokens.check(token, ask).await
    }

    /// Searches repositories. The hub is asked once, without retries: the person may have typed on.
    ///
    /// # Errors
    ///
    /// HUB_UNAVAILABLE, INVALID_HF_TOKEN.
    pub(crate) async fn search(
        &self,
        search: &Search,
        token: Option<&Secret>,
    ) -> Result<Vec<ListedRepo>, ServiceError> {
        let url = format!("{}/api/models?{}", self.http.endpoint(), search.query_string());
        let context = RequestContext {
            repo: None,
            kind: self.kind,
            target: RequestTarget::Other,
            with_token: token.is_some(),
            endpoint: self.http.endpoint(),
        };
        match self.call_api_once(&url, context, token).await {
            Ok((body, _)) => parse_found(&body, search.limit as usize).ok_or_else(|| self.http.not_a_hub()),
            Err(HubError::Transient { why, .. } | HubError::Unreachable { why }) => {
                Err(ServiceError::hub_gave_no_answer(self.host(), why))
            }
            Err(error) => Err(error.into_service_error(self.host())),
        }
    }

    async fn request_file(
        &self,
        file: FileAt<'_>,
        range: Option<Range<u64>>,
    ) -> Result<HubResponse<'_>, HubError> {
        let page = self.kind.page(self.http.endpoint(), file.repo);
        let url = format!("{page}/resolve/{}/{}", file.commit, file.path.encoded());
        let request = HubRequest {
            url: &url,
            context: self.context(file.repo, RequestTarget::File(file.path.as_str()), file.token),
            token: file.token,
            range: range.as_ref(),
            deadline: Instant::now() + self.limits().stall_timeout,
        };
        let answer = self.http.send(&request).await?;
        if answer.commit.as_deref() != Some(file.commit) {
            return Err(HubError::Permanent(self.http.not_a_hub()));
        }
        let encoding = answer.response.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(HubError::Permanent(ServiceError::download_failed(format!(
                "{} sends '{}' in an encoding that was not asked for",
                self.host(),
                file.path
            ))));
        }
        Ok(answer)
    }

    /// Returns the time by which this many bytes must have come.
    fn read_deadline(&self, bytes: u64) -> Instant {
        Instant::now() + self.limits().answer_timeout + Duration::from_secs(bytes / LOWEST_READ_SPEED)
    }

    fn context<'a>(
        &'a self,
        repo: &'a RepoId,
        target: RequestTarget<'a>,
        token: Option<&Secret>,
    ) -> RequestContext<'a> {
        let endpoint = self.http.endpoint();
        RequestContext { repo: Some(repo), kind: self.kind, target, with_token: token.is_some(), endpoint }
    }

    /// Calls the API with retries. Returns the body and the next page's address.
    async fn call_api(
        &self,
        url: &str,
        context: RequestContext<'_>,
        token: Option<&Secret>,
    ) -> Result<(Vec<u8>, Option<String>), ServiceError> {
        self.with_retry(|| self.call_api_once(url, context, token)).await
    }

    async fn call_api_once(
        &self,
        url: &str,
        context: RequestContext<'_>,
        token: Option<&Secret>,
    ) -> Result<(Vec<u8>, Option<String>), HubError> {
        let deadline = Instant::now() + self.limits().answer_timeout;
        let request = HubRequest { url, context, token, range: None, deadline };
        let HubResponse { response, permit, .. } = self.http.send(&request).await?;
        if response.status() != StatusCode::OK {
            return Err(HubError::Permanent(self.http.not_a_hub()));
        }
        let next = api_types::next_page(response.headers());
        let next = next.filter(|next| Url::parse(next).is_ok_and(|url| self.http.is_own_origin(&url)));
        let body = settle(permit, self.http.read_all(response, MAX_ANSWER_BYTES, deadline).await)?;
        Ok((body, next))
    }

    /// Retries as the policy says, but not while the circuit breaker is open: a person waits for the answer.
    async fn with_retry<T, F: Future<Output = Result<T, HubError>>>(
        &self,
        attempt: impl FnMut() -> F,
    ) -> Result<T, ServiceError> {
        let is_transient =
            |error: &HubError| !matches!(error, HubError::Permanent(_) | HubError::CircuitOpen { .. });
        let result = self.limits().retry.run(attempt, is_transient).await;
        result.map_err(|error| error.into_service_error(self.host()))
    }
}
