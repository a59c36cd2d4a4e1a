//! The comparison of Catalog and models folder: where they disagree, and which remedy makes them agree. It only decides;
//! `apply` acts.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use millm_proto::{
    catalog::v1::{Model, Source, model::State},
    downloader::v1::storage_finding::Kind,
};

use super::scan::{DiskUsage, FinishedFolder, IncomingFolder, Scan};

/// The time for which the bytes of a failed download are kept for a retry.
pub(crate) const FAILED_BYTES_KEPT: Duration = Duration::from_hours(7 * 24);

/// One disagreement, or one fact for the report.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) path: PathBuf,
    pub(crate) row: Option<Model>,
    pub(crate) size: Option<DiskUsage>,
    /// `None` when nothing is wrong, or the files are not ours to change.
    pub(crate) remedy: Option<Remedy>,
}

/// The change that makes Catalog and models folder agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Set the row to READY with the files of this folder.
    UseFolder {
        folder: PathBuf,
    },
    /// Set the row to ERROR: its files are gone, and it can be downloaded again.
    MarkFailed,
    FinishRemoval,
    RemoveFolder,
    RemoveIncoming,
    RemoveLink,
}

/// Compares a scan with the rows of the catalog `catalog_id`, which were listed after the scan.
pub(crate) fn compare(scan: &Scan, rows: &[Model], catalog_id: &str, now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = HashSet::new();
    for row in rows {
        let own = scan.folders.iter().find(|folder| folder.is_complete && belongs(folder, row, catalog_id));
        used.extend(own.map(|folder| folder.path.as_path()));
        findings.extend(of_row(row, scan, own));
    }
    // A row may name a folder that has lost files. The files that are left are reused by the next download.
    used.extend(rows.iter().map(|row| Path::new(&row.storage_path)));
    let left = scan.folders.iter().filter(|folder| !used.contains(folder.path.as_path()));
    findings.extend(left.map(|folder| of_folder(folder, catalog_id)));
    let by_id: HashMap<i64, &Model> = rows.iter().map(|row| (row.id, row)).collect();
    findings.extend(scan.incoming.iter().filter_map(|incoming| of_incoming(incoming, &by_id, now)));
    findings.extend(scan.broken_links.iter().map(|path| Finding {
        kind: Kind::BrokenLink,
        path: path.clone(),
        row: None,
        size: None,
        remedy: Some(Remedy::RemoveLink),
    }));
    findings
}

fn belongs(folder: &FinishedFolder, row: &Model, catalog_id: &str) -> bool {
    folder.manifest.as_ref().is_some_and(|manifest| manifest.belongs_to(row, catalog_id))
}

/// Returns whether the row's files are in the models folder, not a person's own.
fn is_in_models_dir(row: &Model) -> bool {
    row.source() != Source::Local || row.storage_path != row.local_path
}

fn of_row(row: &Model, scan: &Scan, own: Option<&FinishedFolder>) -> Option<Finding> {
    let finding = |kind, path: &Path, remedy| {
        Some(Finding { kind, path: path.to_owned(), row: Some(row.clone()), size: None, remedy })
    };
    let stored = Path::new(&row.storage_path);
    match row.state() {
        State::Deleting => finding(Kind::HalfRemoved, stored, Some(Remedy::FinishRemoval)),
        State::Ready if !is_in_models_dir(row) => {
            let gone = std::fs::metadata(stored).is_err();
            gone.then(|| finding(Kind::FilesMissing, stored, None)).flatten()
        }
        State::Ready if scan.folders.iter().any(|folder| folder.is_complete && folder.path == stored) => None,
        State::Ready | State::Error => match own {
            Some(own) => {
                let remedy = Remedy::UseFolder { folder: own.path.clone() };
                finding(Kind::FilesElsewhere, &own.path, Some(remedy))
            }
            None if row.state() == State::Ready => {
                finding(Kind::FilesMissing, stored, Some(Remedy::MarkFailed))
            }
            None => None,
        },
        State::Pending | State::Unspecified => None,
    }
}

fn of_folder(folder: &FinishedFolder, catalog_id: &str) -> Finding {
    let (kind, remedy) = match &folder.manifest {
        Some(manifest) if manifest.catalog_id == catalog_id => {
            (Kind::FolderWithoutRow, Some(Remedy::RemoveFolder))
        }
        Some(_) => (Kind::FolderOfAnother, None),
        None => (Kind::FolderUnknown, None),
    };
    Finding { kind, path: folder.path.clone(), row: None, size: Some(folder.size), remedy }
}

fn of_incoming(incoming: &IncomingFolder, rows: &HashMap<i64, &Model>, now: SystemTime) -> Option<Finding> {
    let row = incoming.id.and_then(|id| rows.get(&id));
    let age = now.duration_since(incoming.size.changed).unwrap_or_default();
    let (kind, remedy) = match row.map(|row| row.state()) {
        _ if incoming.id.is_none() => (Kind::PartialOfAnother, None),
        Some(State::Pending) => return None,
        Some(State::Error) if age <= FAILED_BYTES_KEPT => (Kind::PartialKept, None),
        Some(State::Error) => (Kind::PartialOld, Some(Remedy::RemoveIncoming)),
        _ => (Kind::PartialWithoutRow, Some(Remedy::RemoveIncoming)),
    };
    let path = incoming.incoming.path().to_owned();
    Some(Finding { kind, path, row: row.map(|row| (*row).clone()), size: Some(incoming.size), remedy })
}
