//! Where the catalogue and the disk do not agree, and what would mend it. Decides, and touches nothing.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use millm_proto::{
    catalog::v1::{Model, Source, model::State},
    downloader::v1::storage_finding::Kind,
};

use super::disk::{Arriving, Disk, Folder, Size};

/// How long the bytes of a failed download wait for a retry.
pub const FAILED_BYTES_KEPT: Duration = Duration::from_hours(7 * 24);

/// Something to tell of.
#[derive(Debug, Clone)]
pub struct Finding {
    pub kind: Kind,
    pub path: PathBuf,
    pub row: Option<Model>,
    pub size: Option<Size>,
    /// `None`: not ours to change, or fine as it is.
    pub remedy: Option<Remedy>,
}

/// What makes catalogue and disk agree again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// The row says where its files are, and that they are.
    Find {
        folder: PathBuf,
    },
    /// The row says that its files are gone: then it can be fetched again.
    Fail,
    FinishRemoval,
    RemoveFolder,
    RemoveIncoming,
    RemoveLink,
}

/// `rows` are those of `catalog`, read after the disk.
pub fn compare(disk: &Disk, rows: &[Model], catalog: &str, now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = HashSet::new();
    for row in rows {
        let own = disk.folders.iter().find(|folder| folder.whole && belongs(folder, row, catalog));
        used.extend(own.map(|folder| folder.path.as_path()));
        findings.extend(of_row(row, disk, own));
    }
    // A row may name a folder that has lost files: what is left in it is used when the model is got again.
    used.extend(rows.iter().map(|row| Path::new(&row.storage_path)));
    let left = disk.folders.iter().filter(|folder| !used.contains(folder.path.as_path()));
    findings.extend(left.map(|folder| of_folder(folder, catalog)));
    let by_id: HashMap<i64, &Model> = rows.iter().map(|row| (row.id, row)).collect();
    findings.extend(disk.incoming.iter().filter_map(|arriving| of_incoming(arriving, &by_id, now)));
    findings.extend(disk.broken_links.iter().map(|path| Finding {
        kind: Kind::BrokenLink,
        path: path.clone(),
        row: None,
        size: None,
        remedy: Some(Remedy::RemoveLink),
    }));
    findings
}

fn belongs(folder: &Folder, row: &Model, catalog: &str) -> bool {
    folder.meta.as_ref().is_some_and(|meta| meta.belongs_to(row, catalog))
}

/// Whether we keep the files of this row, not a person.
fn is_kept_by_us(row: &Model) -> bool {
    row.source() != Source::Local || row.storage_path != row.local_path
}

fn of_row(row: &Model, disk: &Disk, own: Option<&Folder>) -> Option<Finding> {
    let finding = |kind, path: &Path, remedy| {
        Some(Finding { kind, path: path.to_owned(), row: Some(row.clone()), size: None, remedy })
    };
    let stored = Path::new(&row.storage_path);
    match row.state() {
        State::Deleting => finding(Kind::HalfRemoved, stored, Some(Remedy::FinishRemoval)),
        State::Ready if !is_kept_by_us(row) => {
            let gone = std::fs::metadata(stored).is_err();
            gone.then(|| finding(Kind::FilesMissing, stored, None)).flatten()
        }
        State::Ready if disk.folders.iter().any(|folder| folder.whole && folder.path == stored) => None,
        State::Ready | State::Error => match own {
            Some(own) => {
                let remedy = Remedy::Find { folder: own.path.clone() };
                finding(Kind::FilesElsewhere, &own.path, Some(remedy))
            }
            None if row.state() == State::Ready => finding(Kind::FilesMissing, stored, Some(Remedy::Fail)),
            None => None,
        },
        State::Pending | State::Unspecified => None,
    }
}

fn of_folder(folder: &Folder, catalog: &str) -> Finding {
    let (kind, remedy) = match &folder.meta {
        Some(meta) if meta.catalog == catalog => (Kind::FolderWithoutRow, Some(Remedy::RemoveFolder)),
        Some(_) => (Kind::FolderOfAnother, None),
        None => (Kind::FolderUnknown, None),
    };
    Finding { kind, path: folder.path.clone(), row: None, size: Some(folder.size), remedy }
}

fn of_incoming(arriving: &Arriving, rows: &HashMap<i64, &Model>, now: SystemTime) -> Option<Finding> {
    let row = arriving.id.and_then(|id| rows.get(&id));
    let age = now.duration_since(arriving.size.changed).unwrap_or_default();
    let (kind, remedy) = match row.map(|row| row.state()) {
        _ if arriving.id.is_none() => (Kind::PartialOfAnother, None),
        Some(State::Pending) => return None,
        Some(State::Error) if age <= FAILED_BYTES_KEPT => (Kind::PartialKept, None),
        Some(State::Error) => (Kind::PartialOld, Some(Remedy::RemoveIncoming)),
        _ => (Kind::PartialWithoutRow, Some(Remedy::RemoveIncoming)),
    };
    let path = arriving.incoming.path().to_owned();
    Some(Finding { kind, path, row: row.map(|row| (*row).clone()), size: Some(arriving.size), remedy })
}
