//! What a file must hash to, by the hub: SHA-256 for large files, git's SHA-1 of a blob for small ones.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Written `sha256:…` or `git:…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Digest {
    Sha256([u8; 32]),
    GitSha1([u8; 20]),
}

impl Digest {
    /// 64 hex digits.
    pub fn sha256(hex_text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex_text, &mut bytes).ok().map(|()| Self::Sha256(bytes))
    }

    /// 40 hex digits.
    pub fn git(hex_text: &str) -> Option<Self> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(hex_text, &mut bytes).ok().map(|()| Self::GitSha1(bytes))
    }

    /// The digits alone.
    pub fn hex(&self) -> String {
        match self {
            Self::Sha256(bytes) => hex::encode(bytes),
            Self::GitSha1(bytes) => hex::encode(bytes),
        }
    }

    /// A hasher of this kind for a file of `size` bytes.
    pub fn hasher(&self, size: u64) -> Hasher {
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
        .ok_or_else(|| format!("'{text}' is no digest"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Takes a file's bytes in their order.
#[derive(Debug, Clone)]
pub enum Hasher {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitSha1(hasher) => hasher.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
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
