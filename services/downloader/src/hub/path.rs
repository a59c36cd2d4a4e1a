//! Names that a hub gives us, checked before they reach a URL or a disk.

use std::fmt;

use millm_kit::ServiceError;
use serde::{Deserialize, Serialize};

const MOST_BYTES: usize = 1024;

/// A file's path inside a repository: relative, of plain segments, the same on every system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoPath(String);

impl RepoPath {
    /// Refuses what could leave a folder or mean another thing on another system: `..`, absolute paths, drive
    /// letters, backslashes, control characters, empty segments.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let plain = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.len() <= 255
                && segment.chars().all(|c| !c.is_control() && !matches!(c, '\\' | ':'))
        };
        if text.len() <= MOST_BYTES && text.split('/').all(plain) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(120).flat_map(char::escape_debug).collect();
        Err(ServiceError::invalid_model_file(
            format!("'{shown}'"),
            "is not a safe file name, the repository is refused",
        ))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Not in a folder of the repository.
    pub fn is_top_level(&self) -> bool {
        !self.0.contains('/')
    }

    /// As it stands in a URL.
    pub fn encoded(&self) -> String {
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

/// A revision as one segment of a URL: `refs/pr/1` is `refs%2Fpr%2F1`.
pub fn encode_segment(text: &str) -> String {
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

/// 40 hex digits in lower case: a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
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

    #[test]
    fn commits() {
        assert!(is_commit(&"0f".repeat(20)));
        assert!(!is_commit("main") && !is_commit(&"0F".repeat(20)) && !is_commit(&"g".repeat(40)));
    }
}
