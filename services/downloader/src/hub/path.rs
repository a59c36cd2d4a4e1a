//! File names that a hub gives, checked before they reach a URL or a disk.

use std::fmt;

use millm_kit::{ServiceError, format::excerpt};
use serde::{Deserialize, Serialize};

const MAX_BYTES: usize = 1024;

/// A file's path inside a repository: relative, without segments that mean something else on some system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct RepoPath(String);

impl RepoPath {
    /// Parses a path. It refuses `..`, absolute paths, drive letters, backslashes, control characters and empty
    /// segments: such a path could leave its folder.
    ///
    /// # Errors
    ///
    /// INVALID_MODEL_FILE.
    pub(crate) fn parse(text: &str) -> Result<Self, ServiceError> {
        let is_plain = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.len() <= 255
                && segment.chars().all(|c| !c.is_control() && !matches!(c, '\\' | ':'))
        };
        if text.len() <= MAX_BYTES && text.split('/').all(is_plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(ServiceError::invalid_model_file(
            format!("'{}'", excerpt(text)),
            "is not a safe file name, the repository is refused",
        ))
    }

    /// Returns the path as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the file lies in no folder of the repository.
    pub(crate) fn is_top_level(&self) -> bool {
        !self.0.contains('/')
    }

    /// Returns the path percent-encoded for a URL.
    pub(crate) fn encoded(&self) -> String {
        encode(&self.0, b"-_.~/")
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RepoPath {
    type Error = ServiceError;

    fn try_from(text: String) -> Result<Self, ServiceError> {
        Self::parse(&text)
    }
}

impl From<RepoPath> for String {
    fn from(path: RepoPath) -> Self {
        path.0
    }
}

/// Returns a revision percent-encoded as one segment of a URL: `refs/pr/1` is `refs%2Fpr%2F1`.
pub(crate) fn encode_segment(text: &str) -> String {
    encode(text, b"-_.~")
}

fn encode(text: &str, plain: &[u8]) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_pass() {
        for bad in
            ["", "/abs", "../x", "a/../b", "a//b", "a/", "./a", "C:\\x", "C:x", "\\\\host\\x", "a\0b", "a\nb"]
        {
            assert!(RepoPath::parse(bad).is_err(), "{bad:?}");
        }
        assert!(RepoPath::parse(&"a".repeat(2000)).is_err());
        for good in ["config.json", "a/b.safetensors", "ü 1.txt", "..a"] {
            assert!(RepoPath::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn urls_are_escaped() {
        assert_eq!(RepoPath::parse("a b/ü#?.txt").unwrap().encoded(), "a%20b/%C3%BC%23%3F.txt");
        assert_eq!(encode_segment("refs/pr/1"), "refs%2Fpr%2F1");
    }
}
