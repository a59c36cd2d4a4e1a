//! The types of the hub's JSON answers, as far as they are read. A missing or malformed field becomes `None`; a
//! dangerous file name is an error.
//!
//! The `hf-hub` crate is not used here: its 0.5 types hold a commit and file names, but no gating, licence or digests;
//! its 1.x brings an HTTP client and the Xet transfer stack; and the checks below would remain with either.

use http::HeaderMap;
use millm_kit::{
    ServiceError,
    names::{RepoId, is_commit},
};
use serde_json::Value;

use super::{digest::Digest, path::RepoPath};

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RepoInfo {
    /// The name as the hub spells it.
    pub(crate) repo: RepoId,
    pub(crate) commit: String,
    /// The publisher grants access to the files person by person.
    pub(crate) gated: bool,
    pub(crate) license: Option<String>,
}

impl RepoInfo {
    /// Parses an answer; `None` when no hub made it.
    pub(super) fn parse(body: &[u8], asked: &RepoId) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let commit = value.get("sha")?.as_str().filter(|sha| is_commit(sha))?.to_owned();
        let repo = value.get("id").and_then(Value::as_str).and_then(|id| RepoId::parse(id).ok());
        let gated = match value.get("gated") {
            Some(Value::Bool(gated)) => *gated,
            Some(Value::String(_)) => true,
            _ => false,
        };
        let tagged = || {
            let tags = value.get("tags")?.as_array()?;
            tags.iter().find_map(|tag| tag.as_str()?.strip_prefix("license:"))
        };
        let license = value.pointer("/cardData/license").and_then(Value::as_str).or_else(tagged);
        Some(Self {
            repo: repo.unwrap_or_else(|| asked.clone()),
            commit,
            gated,
            license: license.map(|license| license.chars().take(100).collect()),
        })
    }
}

/// A file at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    pub(crate) path: RepoPath,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
}

/// Adds one page of a file listing to `files`. Returns `None` when no hub made the answer.
///
/// # Errors
///
/// INVALID_MODEL_FILE when a file's name is dangerous.
pub(super) fn tree_page(body: &[u8], files: &mut Vec<RemoteFile>) -> Result<Option<()>, ServiceError> {
    let Ok(Value::Array(entries)) = serde_json::from_slice(body) else { return Ok(None) };
    for entry in &entries {
        let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str);
        let number = |pointer: &str| entry.pointer(pointer).and_then(Value::as_u64);
        let (Some(kind), Some(path)) = (text("/type"), text("/path")) else { return Ok(None) };
        let path = RepoPath::parse(path)?;
        if kind != "file" {
            continue;
        }
        let digest = match text("/lfs/oid") {
            Some(oid) => Digest::sha256(oid.strip_prefix("sha256:").unwrap_or(oid)),
            None => text("/oid").and_then(Digest::git),
        };
        let (Some(size), Some(digest)) = (number("/lfs/size").or_else(|| number("/size")), digest) else {
            return Ok(None);
        };
        files.push(RemoteFile { path, size, digest });
    }
    Ok(Some(()))
}

/// Returns the address of the next page, from `Link: <address>; rel="next"` (RFC 8288).
pub(super) fn next_page(headers: &HeaderMap) -> Option<String> {
    headers.get_all(http::header::LINK).iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
        value.split(',').find_map(|link| {
            let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
            let is_next = parameters.split(';').any(|parameter| parameter.trim() == "rel=\"next\"");
            is_next.then(|| address.to_owned())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_answers_are_parsed_or_rejected() {
        let asked = RepoId::parse("O/n").unwrap();
        let sha = "0f".repeat(20);
        let info = |body: &str| RepoInfo::parse(body.as_bytes(), &asked);
        let good = format!(r#"{{"id":"o/n","sha":"{sha}","gated":"manual","tags":["license:mit"]}}"#);
        let good = info(&good).unwrap();
        assert_eq!((good.repo.as_str(), good.gated, good.license.as_deref()), ("o/n", true, Some("mit")));
        for bad in ["<html>", "[]", "{}", r#"{"sha":"main"}"#, r#"{"sha":7}"#] {
            assert_eq!(info(bad), None, "{bad}");
        }
    }

    #[test]
    fn file_listings_are_parsed_refused_or_rejected() {
        let page = |body: &str| {
            let mut files = Vec::new();
            tree_page(body.as_bytes(), &mut files).map(|page| page.map(|()| files))
        };
        let (git, sha) = ("ab".repeat(20), "cd".repeat(32));
        let body = format!(
            r#"[{{"type":"directory","path":"d","size":0,"oid":"{git}"}},
                {{"type":"file","path":"a","size":3,"oid":"{git}"}},
                {{"type":"file","path":"d/b","size":9,"oid":"{git}","lfs":{{"oid":"{sha}","size":9}}}}]"#
        );
        let files = page(&body).unwrap().unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(files[1].digest, Digest::sha256(&sha).unwrap());
        assert!(page(&body.replace("d/b", "../b")).is_err());
        assert!(page(&body.replace(&sha, "**")).unwrap().is_none());
        assert!(page("{}").unwrap().is_none());
    }

    #[test]
    fn the_next_page_is_found() {
        let headers = HeaderMap::from_iter([(
            http::header::LINK,
            r#"<https://h/x>; rel="xet-auth", <https://h/y?cursor=1>; rel="next""#.parse().unwrap(),
        )]);
        assert_eq!(next_page(&headers).as_deref(), Some("https://h/y?cursor=1"));
        assert_eq!(next_page(&HeaderMap::new()), None);
    }
}
