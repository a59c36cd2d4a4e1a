//! The kinds of repositories: their addresses on the hub, and how a missing one is called.

use millm_kit::{ServiceError, names::RepoId};

/// What a repository holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum RepoKind {
    #[default]
    Model,
    Dataset,
}

impl RepoKind {
    /// Returns the collection in the addresses of the API.
    pub(crate) const fn collection(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// Returns the address of a repository's page. Its files lie below it.
    pub(crate) fn page(self, endpoint: &str, repo: &RepoId) -> String {
        match self {
            Self::Model => format!("{endpoint}/{repo}"),
            Self::Dataset => format!("{endpoint}/datasets/{repo}"),
        }
    }

    /// Returns the kind that a caller may have mistaken this one for.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Model => Self::Dataset,
            Self::Dataset => Self::Model,
        }
    }

    /// Returns the error for a repository that does not exist.
    pub(crate) fn not_found(self, repo: &RepoId) -> ServiceError {
        match self {
            Self::Model => ServiceError::repo_not_found(repo),
            Self::Dataset => ServiceError::dataset_repo_not_found(repo),
        }
    }

    /// Returns the error for a repository that exists, but is of the other kind.
    pub(crate) fn is_other(self, repo: &RepoId) -> ServiceError {
        match self {
            Self::Model => ServiceError::dataset_not_model(repo),
            Self::Dataset => ServiceError::model_not_dataset(repo),
        }
    }
}
