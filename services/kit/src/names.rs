//! Names that come from outside, parsed once: model references, handles, repository ids, revisions.

use std::fmt;

use crate::ServiceError;

/// How a caller names a model: by id (`7`, `models/7`, `downloads/7`) or by handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    Id(i64),
    /// A handle of digits alone is found only by this when no model has that id.
    Handle(String),
}

impl ModelRef {
    /// Errors with MODEL_NOT_FOUND on what can name no model, so that probing tells nothing.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let shown = || text.chars().take(120).flat_map(char::escape_debug).collect::<String>();
        let rest = text.strip_prefix("models/").or_else(|| text.strip_prefix("downloads/"));
        if let Some(id) = rest {
            return id.parse().map(Self::Id).map_err(|_| ServiceError::model_not_found(shown()));
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        if is_handle(text) {
            return Ok(Self::Handle(text.to_owned()));
        }
        Err(ServiceError::model_not_found(shown()))
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

/// 1 to 255 letters, digits, `-`, `_`, `.`.
pub fn is_handle(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !text.bytes().all(|b| b == b'.')
}

/// `owner/name` on a hub: what [`RepoId::parse`] lets through can stand in a URL and in a folder name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoId {
    text: String,
    slash: usize,
}

impl RepoId {
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

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn owner(&self) -> &str {
        &self.text[..self.slash]
    }

    pub fn name(&self) -> &str {
        &self.text[self.slash + 1..]
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A branch, tag or commit. `Default` is `main`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision(String);

impl Revision {
    /// Empty means `main`.
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
}
