//! The digest that the hub gives for a file: SHA-256 for large files, Git's SHA-1 of a blob for small ones.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A file's digest, written `sha256:…` or `git:…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Digest {
    Sha256([u8; 32]),
    GitSha1([u8; 20]),
}

impl Digest {
    /// Parses 64 hex digits.
    pub(crate) fn sha256(hex_text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex_text, &mut bytes).ok().map(|()| Self::Sha256(bytes))
    }

    /// Parses 40 hex digits.
    pub(crate) fn git(hex_text: &str) -> Option<Self> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(hex_text, &mut bytes).ok().map(|()| Self::GitSha1(bytes))
    }

    /// Returns the hex digits without the kind.
    pub(crate) fn hex(&self) -> String {
        match self {
            Self::Sha256(bytes) => hex::encode(bytes),
            Self::GitSha1(bytes) => hex::encode(bytes),
        }
    }

    /// Returns a hasher of this kind for a file of `size` bytes. Git hashes the size too (`blob <size>\0`).
    pub(crate) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::GitSha1(_) => Hasher::GitSha1(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(bytes) => write!(f, "sha256:{}", hex::encode(bytes)),
            Self::GitSha1(bytes) => write!(f, "git:{}", hex::encode(bytes)),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("sha256", digits)) => Self::sha256(digits),
            Some(("git", digits)) => Self::git(digits),
            _ => None,
        }
        .ok_or_else(|| format!("'{text}' is not a digest"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Hashes a file's bytes in their order.
#[derive(Debug, Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hasher {
    /// Adds the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitSha1(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest of all bytes.
    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Self::GitSha1(hasher) => Digest::GitSha1(hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_computed_and_written() {
        // `printf hello | git hash-object --stdin`, `printf hello | sha256sum`.
        let git = Digest::git("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0").unwrap();
        let sha = Digest::sha256("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824").unwrap();
        for digest in [git, sha] {
            let mut hasher = digest.hasher(5);
            hasher.update(b"hel");
            hasher.update(b"lo");
            assert_eq!(hasher.finish(), digest);
            assert_eq!(Digest::try_from(digest.to_string()), Ok(digest));
        }
        assert!(Digest::try_from("sha256:xyz".to_owned()).is_err());
        assert!(Digest::sha256("00").is_none());
    }
}
