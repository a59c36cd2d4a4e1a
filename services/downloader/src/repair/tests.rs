//! The findings for each way in which rows and folders can differ.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use millm_proto::{
    catalog::v1::{Model, Quantization, Source, model::State},
    downloader::v1::storage_finding::Kind,
};

use super::{
    compare::{FAILED_BYTES_KEPT, Remedy, compare},
    scan::Scan,
};
use crate::{
    jobs::phases::seal::{rename, seal},
    store::{manifest::BuildRecord, models_dir::ModelsDir},
};

const OURS: &str = "0123456789abcdef";

fn row(id: i64, state: State) -> Model {
    let mut row = Model { id, repo_id: format!("o/n{id}"), handle: format!("n{id}"), ..Model::default() };
    row.set_source(Source::Huggingface);
    row.set_requested_quantization(Quantization::Native);
    row.set_state(state);
    row
}

/// Opens the models folder for a catalog.
fn open(root: &Path, catalog_id: &str) -> ModelsDir {
    let models_dir = ModelsDir::open(root).unwrap();
    models_dir.bind_catalog(catalog_id);
    models_dir
}

/// Makes the finished folder of a row, and sets the row's path to it.
fn finish(models_dir: &ModelsDir, row: &mut Model) -> PathBuf {
    let incoming = models_dir.incoming(row.id);
    incoming.create().unwrap();
    fs::write(incoming.path().join("model.safetensors"), b"hello").unwrap();
    let record = BuildRecord::new(Quantization::Native, String::new(), 5);
    seal(&incoming, row, &record, models_dir.catalog_id()).unwrap();
    let folder = rename(&incoming, &models_dir.final_folder(row).unwrap(), row.id).unwrap();
    row.storage_path = folder.display().to_string();
    folder
}

fn found(models_dir: &ModelsDir, rows: &[Model], later: Duration) -> Vec<(Kind, i64, Option<Remedy>)> {
    let scan = Scan::read(models_dir).unwrap();
    let findings = compare(&scan, rows, models_dir.catalog_id(), SystemTime::now() + later);
    findings.into_iter().map(|f| (f.kind, f.row.map_or(0, |row| row.id), f.remedy)).collect()
}

fn check(models_dir: &ModelsDir, rows: &[Model], expected: &[(Kind, i64, Option<Remedy>)]) {
    assert_eq!(found(models_dir, rows, Duration::ZERO), expected);
}

#[test]
fn no_finding_where_both_agree() {
    let root = tempfile::tempdir().unwrap();
    let models_dir = open(root.path(), OURS);
    let (mut ready, mut finished, pending) =
        (row(1, State::Ready), row(2, State::Pending), row(3, State::Pending));
    finish(&models_dir, &mut ready);
    finish(&models_dir, &mut finished);
    finished.storage_path.clear();
    models_dir.incoming(3).create().unwrap();
    check(&models_dir, &[ready, finished, pending, row(4, State::Error)], &[]);
}

#[test]
fn rows_without_files_are_found() {
    let root = tempfile::tempdir().unwrap();
    let models_dir = open(root.path(), OURS);
    let (mut gone, mut damaged) = (row(1, State::Ready), row(2, State::Ready));
    fs::remove_dir_all(finish(&models_dir, &mut gone)).unwrap();
    fs::write(finish(&models_dir, &mut damaged).join("model.safetensors"), b"hell").unwrap();
    let mut theirs = Model {
        local_path: "/no/such/place".into(),
        storage_path: "/no/such/place".into(),
        ..row(3, State::Ready)
    };
    theirs.set_source(Source::Local);
    let failed = Model { state: State::Error.into(), ..damaged.clone() };
    check(&models_dir, &[failed], &[]);
    check(
        &models_dir,
        &[gone, damaged, theirs],
        &[
            (Kind::FilesMissing, 1, Some(Remedy::MarkFailed)),
            (Kind::FilesMissing, 2, Some(Remedy::MarkFailed)),
            (Kind::FilesMissing, 3, None),
        ],
    );
}

#[test]
fn files_that_were_moved_or_came_back_are_found() {
    let root = tempfile::tempdir().unwrap();
    let models_dir = open(root.path(), OURS);
    let (mut moved, mut failed) = (row(1, State::Ready), row(2, State::Error));
    let folders = [finish(&models_dir, &mut moved), finish(&models_dir, &mut failed)];
    moved.storage_path = "/the/old/disk/huggingface/o--n1--NATIVE".into();
    let [first, second] = folders.map(|folder| Some(Remedy::UseFolder { folder }));
    check(
        &models_dir,
        &[moved, failed],
        &[(Kind::FilesElsewhere, 1, first), (Kind::FilesElsewhere, 2, second)],
    );
}

#[test]
fn folders_without_a_row_are_removed_only_when_they_are_ours() {
    let root = tempfile::tempdir().unwrap();
    let ours = open(root.path(), OURS);
    finish(&ours, &mut row(1, State::Ready));
    finish(&open(root.path(), "fedcba9876543210"), &mut row(2, State::Ready));
    fs::create_dir(root.path().join("huggingface/mine")).unwrap();
    fs::write(root.path().join("huggingface/mine/model.gguf"), b"x").unwrap();
    let mut found = found(&ours, &[], Duration::ZERO);
    found.sort_by_key(|(kind, ..)| *kind as i32);
    let expected = [
        (Kind::FolderWithoutRow, 0, Some(Remedy::RemoveFolder)),
        (Kind::FolderOfAnother, 0, None),
        (Kind::FolderUnknown, 0, None),
    ];
    assert_eq!(found, expected);
}

#[test]
fn partial_files_are_kept_seven_days_for_a_retry() {
    let root = tempfile::tempdir().unwrap();
    let ours = open(root.path(), OURS);
    for id in 1..=3 {
        ours.incoming(id).create().unwrap();
    }
    open(root.path(), "fedcba9876543210").incoming(1).create().unwrap();
    let rows = [row(1, State::Pending), row(2, State::Error)];
    let kinds = |later| {
        let mut found = found(&ours, &rows, later);
        found.sort_by_key(|(kind, ..)| *kind as i32);
        found
    };
    let remove = Some(Remedy::RemoveIncoming);
    let (orphan, another) = ((Kind::PartialWithoutRow, 0, remove.clone()), (Kind::PartialOfAnother, 0, None));
    assert_eq!(kinds(Duration::ZERO), [orphan.clone(), (Kind::PartialKept, 2, None), another.clone()]);
    let later = kinds(FAILED_BYTES_KEPT + Duration::from_secs(60));
    assert_eq!(later, [orphan, (Kind::PartialOld, 2, remove), another]);
}

#[test]
fn removals_are_completed_and_broken_links_removed() {
    let root = tempfile::tempdir().unwrap();
    let models_dir = open(root.path(), OURS);
    models_dir.link_local("gone", 1, Path::new("/no/such/place")).unwrap();
    models_dir.link_local("there", 2, root.path()).unwrap();
    let rows = [row(3, State::Deleting)];
    let expected = [
        (Kind::HalfRemoved, 3, Some(Remedy::FinishRemoval)),
        (Kind::BrokenLink, 0, Some(Remedy::RemoveLink)),
    ];
    check(&models_dir, &rows, &expected);
}
