//! What is found for each way in which rows and folders can differ.

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
    disk::Disk,
};
use crate::{
    cache::Cache,
    meta::{Making, final_folder, place, seal},
};

const OURS: &str = "0123456789abcdef";

fn row(id: i64, state: State) -> Model {
    let mut row = Model { id, repo_id: format!("o/n{id}"), handle: format!("n{id}"), ..Model::default() };
    row.set_source(Source::Huggingface);
    row.set_requested_quantization(Quantization::Native);
    row.set_state(state);
    row
}

/// A models folder as `catalog` keeps it.
fn cache(root: &Path, catalog: &str) -> Cache {
    let cache = Cache::open(root).unwrap();
    cache.keep_for(catalog);
    cache
}

/// A finished folder of the row, at which the row then points.
fn finish(cache: &Cache, row: &mut Model) -> PathBuf {
    let incoming = cache.incoming(row.id);
    incoming.create().unwrap();
    fs::write(incoming.path().join("model.safetensors"), b"hello").unwrap();
    let making = Making::new(Quantization::Native, String::new(), 5);
    seal(&incoming, row, &making, cache.catalog()).unwrap();
    let folder = place(&incoming, &final_folder(cache, row).unwrap(), row.id).unwrap();
    row.storage_path = folder.display().to_string();
    folder
}

fn found(cache: &Cache, rows: &[Model], later: Duration) -> Vec<(Kind, i64, Option<Remedy>)> {
    let disk = Disk::read(cache).unwrap();
    let findings = compare(&disk, rows, cache.catalog(), SystemTime::now() + later);
    findings.into_iter().map(|f| (f.kind, f.row.map_or(0, |row| row.id), f.remedy)).collect()
}

fn check(cache: &Cache, rows: &[Model], expected: &[(Kind, i64, Option<Remedy>)]) {
    assert_eq!(found(cache, rows, Duration::ZERO), expected);
}

#[test]
fn what_agrees_is_not_told() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path(), OURS);
    let (mut ready, mut finished, pending) =
        (row(1, State::Ready), row(2, State::Pending), row(3, State::Pending));
    finish(&cache, &mut ready);
    finish(&cache, &mut finished);
    finished.storage_path.clear();
    cache.incoming(3).create().unwrap();
    check(&cache, &[ready, finished, pending, row(4, State::Error)], &[]);
}

#[test]
fn rows_without_files() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path(), OURS);
    let (mut gone, mut damaged) = (row(1, State::Ready), row(2, State::Ready));
    fs::remove_dir_all(finish(&cache, &mut gone)).unwrap();
    fs::write(finish(&cache, &mut damaged).join("model.safetensors"), b"hell").unwrap();
    let mut theirs = Model {
        local_path: "/no/such/place".into(),
        storage_path: "/no/such/place".into(),
        ..row(3, State::Ready)
    };
    theirs.set_source(Source::Local);
    let failed = Model { state: State::Error.into(), ..damaged.clone() };
    check(&cache, &[failed], &[]);
    check(
        &cache,
        &[gone, damaged, theirs],
        &[
            (Kind::FilesMissing, 1, Some(Remedy::Fail)),
            (Kind::FilesMissing, 2, Some(Remedy::Fail)),
            (Kind::FilesMissing, 3, None),
        ],
    );
}

#[test]
fn files_that_were_moved_or_come_back_are_found() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path(), OURS);
    let (mut moved, mut failed) = (row(1, State::Ready), row(2, State::Error));
    let folders = [finish(&cache, &mut moved), finish(&cache, &mut failed)];
    moved.storage_path = "/the/old/disk/huggingface/o--n1--NATIVE".into();
    let [first, second] = folders.map(|folder| Some(Remedy::Find { folder }));
    check(&cache, &[moved, failed], &[(Kind::FilesElsewhere, 1, first), (Kind::FilesElsewhere, 2, second)]);
}

#[test]
fn folders_without_a_row_go_only_when_they_are_ours() {
    let root = tempfile::tempdir().unwrap();
    let ours = cache(root.path(), OURS);
    finish(&ours, &mut row(1, State::Ready));
    finish(&cache(root.path(), "fedcba9876543210"), &mut row(2, State::Ready));
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
fn partial_files_wait_seven_days_for_a_retry() {
    let root = tempfile::tempdir().unwrap();
    let ours = cache(root.path(), OURS);
    for id in 1..=3 {
        ours.incoming(id).create().unwrap();
    }
    cache(root.path(), "fedcba9876543210").incoming(1).create().unwrap();
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
fn removals_are_finished_and_links_to_nowhere_go() {
    let root = tempfile::tempdir().unwrap();
    let cache = cache(root.path(), OURS);
    cache.link_local("gone", 1, Path::new("/no/such/place")).unwrap();
    cache.link_local("there", 2, root.path()).unwrap();
    let rows = [row(3, State::Deleting)];
    let expected = [
        (Kind::HalfRemoved, 3, Some(Remedy::FinishRemoval)),
        (Kind::BrokenLink, 0, Some(Remedy::RemoveLink)),
    ];
    check(&cache, &rows, &expected);
}
