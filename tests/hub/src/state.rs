//! The state of the running hub: repositories, tokens, faults, the request log, signed links, and access rights.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

use crate::answer::Problem;
use crate::fault::Faults;
use crate::journal::Journal;
use crate::repo::blob::Blob;
use crate::repo::{Commit, Files, Gated, Kind, Repo, RepoSpec};
use crate::route::{RepoId, encode_path};

/// The options of the hub.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// True if requests for small files are redirected to `/api/resolve-cache/`.
    pub resolve_cache: bool,
    /// The number of entries on a page of trees and lists.
    pub page_size: usize,
    /// The time for which a signed link is valid.
    pub link_lifetime: Duration,
    /// The send buffer of each connection's socket, in bytes.
    pub send_buffer: u32,
    /// The owners of tokens without access to gated or private repositories, by token.
    pub tokens: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct HubState {
    repos: RwLock<BTreeMap<RepoId, Arc<Repo>>>,
    pub options: Options,
    pub faults: Faults,
    pub journal: Arc<Journal>,
    pub origins: OnceLock<Origins>,
    links: AtomicU64,
    /// The number of the last link that was expired early. All links up to it are invalid.
    dead_links: AtomicU64,
}

/// The addresses of the two hosts.
#[derive(Debug, Clone)]
pub(crate) struct Origins {
    pub hub: String,
    pub cdn: String,
}

/// The reason why a request gets no repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    Problem(Problem),
    /// The repository's id differs in case.
    Moved {
        id: String,
    },
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl HubState {
    /// Returns the state of an empty hub.
    pub fn new(options: Options) -> Self {
        Self {
            repos: RwLock::default(),
            options,
            faults: Faults::default(),
            journal: Journal::new(),
            origins: OnceLock::new(),
            links: AtomicU64::new(0),
            dead_links: AtomicU64::new(0),
        }
    }

    /// Adds or replaces a repository. Returns the commit of its `main`.
    pub fn add(&self, spec: RepoSpec) -> io::Result<String> {
        let id = RepoId { kind: spec.settings.kind, id: spec.id.clone() };
        let repo = Repo::new(spec)?;
        let sha = repo.branches["main"].clone();
        let mut repos = self.repos.write().unwrap_or_else(PoisonError::into_inner);
        repos.insert(id, Arc::new(repo));
        Ok(sha)
    }

    /// Removes a repository.
    pub fn remove(&self, id: &RepoId) {
        self.repos.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Makes a commit on a branch of a model's repository. Returns its sha.
    pub fn commit(&self, id: &str, branch: &str, files: Files) -> io::Result<String> {
        self.change(id, |repo| repo.commit(branch, files))?
    }

    /// Points a branch of a model's repository to a commit that it has.
    pub fn move_branch(&self, id: &str, branch: &str, sha: &str) -> io::Result<()> {
        self.change(id, |repo| {
            if !repo.commits.contains_key(sha) {
                return Err(io::Error::other(format!("{id} has no commit {sha}")));
            }
            repo.branches.insert(branch.to_owned(), sha.to_owned());
            Ok(())
        })?
    }

    fn change<T>(&self, id: &str, change: impl FnOnce(&mut Repo) -> T) -> io::Result<T> {
        let id = RepoId { kind: Kind::Model, id: id.to_owned() };
        let mut repos = self.repos.write().unwrap_or_else(PoisonError::into_inner);
        match repos.get_mut(&id) {
            Some(repo) => Ok(change(Arc::make_mut(repo))),
            None => Err(io::Error::other(format!("no repository {}", id.id))),
        }
    }

    /// Returns the repositories of a kind that a token can see.
    pub fn visible(&self, kind: Kind, token: Option<&str>) -> Vec<Arc<Repo>> {
        let repos = self.repos.read().unwrap_or_else(PoisonError::into_inner);
        repos
            .iter()
            .filter(|(id, repo)| id.kind == kind && (!repo.settings.private || repo.lets_in(token)))
            .map(|(_, repo)| Arc::clone(repo))
            .collect()
    }

    /// Returns a repository whose description a token may read. Descriptions of gated repositories are public.
    pub fn described(&self, id: &RepoId, token: Option<&str>) -> Result<Arc<Repo>, Refusal> {
        let not_found = Problem::RepoNotFound { with_token: token.is_some() };
        let repos = self.repos.read().unwrap_or_else(PoisonError::into_inner);
        let Some(repo) = repos.get(id) else {
            let mut others = repos.iter().filter(|(other, _)| other.kind == id.kind);
            let other = others.find(|(other, _)| other.id.eq_ignore_ascii_case(&id.id));
            return Err(match other {
                Some((other, repo)) if !repo.settings.private || repo.lets_in(token) => {
                    Refusal::Moved { id: other.id.clone() }
                }
                _ => not_found.into(),
            });
        };
        if repo.settings.private && !repo.lets_in(token) {
            return Err(not_found.into());
        }
        if repo.settings.disabled {
            return Err(Problem::Disabled.into());
        }
        Ok(Arc::clone(repo))
    }

    /// Returns a repository whose files a token may read.
    pub fn readable(&self, id: &RepoId, token: Option<&str>) -> Result<Arc<Repo>, Refusal> {
        let repo = self.described(id, token)?;
        if repo.settings.gated == Gated::No || repo.lets_in(token) {
            return Ok(repo);
        }
        let id = id.id.clone();
        Err(match token {
            None => Problem::GatedNoToken { repo: id }.into(),
            Some(_) => Problem::GatedNoAccess { repo: id }.into(),
        })
    }

    /// Returns the token of a request, if it has one. A token that is not valid is an error.
    pub fn token(&self, headers: &HeaderMap) -> Result<Option<String>, Problem> {
        let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
        let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        match token {
            Some(token) if self.owner(token).is_some() => Ok(Some(token.to_owned())),
            _ => Err(Problem::BadToken),
        }
    }

    /// Returns the owner of a token, if the token is valid.
    pub fn owner(&self, token: &str) -> Option<String> {
        if let Some(owner) = self.options.tokens.get(token) {
            return Some(owner.clone());
        }
        let repos = self.repos.read().unwrap_or_else(PoisonError::into_inner);
        let known = repos.values().any(|repo| repo.lets_in(Some(token)));
        known.then(|| "member".to_owned())
    }

    /// Returns the addresses of the two hosts.
    pub fn origins(&self) -> &Origins {
        self.origins.get().expect("set before the first request")
    }

    /// Returns a signed link to a blob at the CDN, which is valid for the link lifetime.
    pub fn sign(&self, repo: &RepoId, blob: &Blob, path: &str) -> String {
        let kind = match repo.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let id = repo.id.replace('/', "%2F");
        let path = format!("/{kind}/{id}/{}/{}", blob.sha256, encode_path(path));
        let expires = now() + self.options.link_lifetime.as_secs();
        let serial = self.links.fetch_add(1, Ordering::Relaxed) + 1;
        let signature = signature(&path, expires, serial);
        let cdn = &self.origins().cdn;
        format!("{cdn}{path}?Expires={expires}&Serial={serial}&Signature={signature}")
    }

    /// Returns whether a link is signed by this hub and still valid. `path` is percent-encoded.
    pub fn link_is_good(&self, path: &str, parameters: &[(String, String)]) -> bool {
        let value =
            |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let number = |name: &str| value(name).and_then(|value| value.parse::<u64>().ok());
        let (Some(expires), Some(serial)) = (number("Expires"), number("Serial")) else {
            return false;
        };
        value("Signature") == Some(signature(path, expires, serial).as_str())
            && expires > now()
            && serial > self.dead_links.load(Ordering::Relaxed)
    }

    /// Invalidates every link that was signed so far.
    pub fn expire_links(&self) {
        self.dead_links.store(self.links.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Returns a blob by its sha256, from any commit of a repository.
    pub fn blob(&self, id: &RepoId, sha256: &str) -> Option<Arc<Blob>> {
        let repos = self.repos.read().unwrap_or_else(PoisonError::into_inner);
        let mut blobs = repos.get(id)?.commits.values().flat_map(|commit| commit.files.values());
        blobs.find(|blob| blob.sha256 == sha256).cloned()
    }
}

/// Returns the commit of a repository's revision.
pub(crate) fn commit_of(repo: &Repo, revision: &str) -> Result<Arc<Commit>, Problem> {
    let unknown = || Problem::RevisionNotFound { revision: revision.to_owned() };
    repo.resolve(revision).ok_or_else(unknown)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

fn signature(path: &str, expires: u64, serial: u64) -> String {
    hex::encode(&Sha256::digest(format!("fake-hub\n{path}\n{expires}\n{serial}"))[..16])
}
