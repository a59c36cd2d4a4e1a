//! Names from outside, parsed once into types: model references, handles, repository ids, revisions.

use std::fmt;

use crate::{error::ServiceError, format::excerpt};

/// A caller's name for a model: an id (`7`, `models/7`, `downloads/7`) or a handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// The number of the model's row. A handle may consist of digits too: look for one if no row has this id.
    Id(i64),
    /// The name that people gave the model.
    Handle(String),
}

impl ModelRef {
    /// Parses a name.
    ///
    /// # Errors
    ///
    /// MODEL_NOT_FOUND for text that cannot name a model. It is the error of a missing model, so probing for names
    /// reveals nothing.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let not_found = || ServiceError::model_not_found(excerpt(text));
        let rest = text.strip_prefix("models/").or_else(|| text.strip_prefix("downloads/"));
        if let Some(id) = rest {
            return id.parse().map(Self::Id).map_err(|_| not_found());
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        if is_handle(text) {
            return Ok(Self::Handle(text.to_owned()));
        }
        Err(not_found())
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Handle(handle) => f.write_str(handle),
        }
    }
}

/// Returns whether `text` is a valid handle: 1 to 255 ASCII letters, digits, `-`, `_` and `.`, and not dots alone.
pub fn is_handle(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !text.bytes().all(|b| b == b'.')
}

/// A repository on the hub: `owner/name`. A parsed id is safe in a URL and in the name of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoId {
    text: String,
    slash: usize,
}

impl RepoId {
    /// Parses `owner/name`.
    ///
    /// # Errors
    ///
    /// INVALID_REPO_ID for text that the hub would refuse.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let invalid = || ServiceError::invalid_repo_id(text);
        let slash = text.find('/').ok_or_else(invalid)?;
        let part = |part: &str| {
            (1..=96).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                && !part.contains("--")
                && !part.contains("..")
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
        };
        let (owner, name) = (&text[..slash], &text[slash + 1..]);
        if part(owner) && part(name) && !name.to_ascii_lowercase().ends_with(".git") {
            Ok(Self { text: text.to_owned(), slash })
        } else {
            Err(invalid())
        }
    }

    /// Returns `owner/name`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the part before the slash.
    pub fn owner(&self) -> &str {
        &self.text[..self.slash]
    }

    /// Returns the part after the slash.
    pub fn name(&self) -> &str {
        &self.text[self.slash + 1..]
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A branch, tag or commit of a repository. The default is `main`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision(String);

impl Revision {
    /// Parses a revision. Empty text means `main`.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for text that cannot be a git revision.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let ok = text.len() <= 255
            && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\' | b'%'))
            && !text.contains("..")
            && !text.starts_with(['/', '-', '.'])
            && !text.ends_with('/');
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(ServiceError::invalid_argument("revision", "must be a branch, tag or commit"))
        }
    }

    /// Returns the revision as the hub spells it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether `text` is a commit of a hub: 40 hex digits in lower case, as Git writes them.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_ids() {
        let long = "a".repeat(97);
        for bad in [
            "",
            "a",
            "../x",
            "a/b/c",
            "a--b/c",
            "a/x.git",
            "é/b",
            "https://hub/a/b",
            "a/",
            "/b",
            "a/.b",
            "a/b-",
            &format!("{long}/b"),
            "a/b\n",
            "a b/c",
            "a/..",
        ] {
            assert!(RepoId::parse(bad).is_err(), "{bad:?}");
        }
        let id = RepoId::parse("google/gemma-2-2b").unwrap();
        assert_eq!((id.owner(), id.name()), ("google", "gemma-2-2b"));
    }

    #[test]
    fn model_references() {
        assert_eq!(ModelRef::parse("models/7").unwrap(), ModelRef::Id(7));
        assert_eq!(ModelRef::parse("7").unwrap(), ModelRef::Id(7));
        assert_eq!(ModelRef::parse("gemma-2").unwrap(), ModelRef::Handle("gemma-2".into()));
        for bad in ["", "models/x", "a/b", "..", "a b", "a\0"] {
            assert!(ModelRef::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn revisions() {
        assert_eq!(Revision::parse("").unwrap().as_str(), "main");
        assert!(Revision::parse("refs/pr/3").is_ok());
        for bad in ["a..b", "a\nb", "a\0", "/a", "a?b", "-x"] {
            assert!(Revision::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn commits() {
        assert!(is_commit(&"0f".repeat(20)));
        assert!(!is_commit("main") && !is_commit(&"0F".repeat(20)) && !is_commit(&"g".repeat(40)));
    }
}
