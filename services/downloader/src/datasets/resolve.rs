//! What to fetch: the repository at a pinned commit, and the files of one split of one configuration.

use millm_kit::{
    Reason, Secret, ServiceError,
    names::{RepoId, Revision},
};

use super::select::{Asked, Selection, from_conversion, from_repository};
use crate::{hub::client::Hub, resolve::plan::peak_bytes};

/// The branch into which the hub converts datasets that it can load.
const CONVERSION: &str = "refs/convert/parquet";

/// A split at a commit.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) repo: RepoId,
    /// The branch that the commit is of: the one that was asked for, or the hub's conversion.
    pub(super) revision: String,
    pub(super) commit: String,
    pub(super) selection: Selection,
}

impl Resolved {
    /// Returns the most bytes that the dataset takes at any time.
    pub(super) fn peak_bytes(&self) -> u64 {
        let files = self.selection.files.iter().map(|file| file.size);
        peak_bytes(files.fold(0, u64::saturating_add), None)
    }
}

/// Resolves a repository: its own data files, or, where it has none that can be read, the hub's conversion to Parquet.
///
/// # Errors
///
/// The hub's errors; INVALID_ARGUMENT when the configuration or the split does not exist, or one must be named;
/// INVALID_DATASET when there are no data files that can be read.
pub(super) async fn resolve(
    hub: &Hub,
    repo: &RepoId,
    revision: &Revision,
    asked: Asked<'_>,
    token: Option<&Secret>,
) -> Result<Resolved, ServiceError> {
    let (info, configs) = hub.dataset_info(repo, revision.as_str(), token).await?;
    // Everybody may read a gated repository's description, so its answer says nothing about the token.
    match token {
        Some(token) if info.gated => hub.check_token(token).await?,
        None if info.gated => return Err(ServiceError::gated_no_token(repo)),
        _ => {}
    }
    let tree = hub.tree(&info.repo, &info.commit, token).await.map_err(of_dataset)?;
    if let Some(selection) = from_repository(&tree, &configs, asked)? {
        let revision = revision.to_string();
        return Ok(Resolved { repo: info.repo, revision, commit: info.commit, selection });
    }
    let nothing = || {
        let why = "has no data files that can be read (.jsonl, .csv, .txt or .parquet), and the hub has not converted it";
        ServiceError::invalid_dataset(repo, why)
    };
    let (info, _) = match hub.dataset_info(repo, CONVERSION, token).await {
        Err(error) if error.reason == Reason::NotFound => return Err(nothing()),
        found => found?,
    };
    let tree = hub.tree(&info.repo, &info.commit, token).await.map_err(of_dataset)?;
    let selection = from_conversion(&tree, asked)?.ok_or_else(nothing)?;
    Ok(Resolved { repo: info.repo, revision: CONVERSION.to_owned(), commit: info.commit, selection })
}

/// A dangerous file name is an error of the dataset here.
fn of_dataset(error: ServiceError) -> ServiceError {
    match error.reason {
        Reason::InvalidModelFile => ServiceError { reason: Reason::InvalidDataset, ..error },
        _ => error,
    }
}
