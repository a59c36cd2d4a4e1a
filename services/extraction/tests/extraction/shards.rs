//! Shards: joined, they are one job's folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use millm_extraction::{DataType, Error, Metadata, Positions, Result, RowLength, RunFacts, Shard, merge};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::fixture::{Job, checksums, job};

fn shards(job: &Job, count: u32) -> (TempDir, Vec<PathBuf>) {
    let root = tempfile::tempdir().unwrap();
    let mut folders = Vec::new();
    for index in 0..count {
        let folder = root.path().join(index.to_string());
        fs::create_dir(&folder).unwrap();
        let mut own = job.clone();
        own.plan.shard = Shard { index, count };
        own.run(&folder).unwrap();
        folders.push(folder);
    }
    (root, folders)
}

fn merged(folders: &[PathBuf], out: &Path) -> Result<Metadata> {
    merge(folders, out, RunFacts::default(), &mut |_| true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn joined_shards_are_one_jobs_folder(
        lengths in prop::collection::vec(0usize..9, 1..12),
        count in 1u32..4,
        limit in 1usize..7,
        fixed: bool,
        pack: bool,
        split: bool,
        max_samples in prop::option::of(1u64..8),
        positions in prop_oneof![
            Just(Positions::All),
            Just(Positions::At(vec![-1])),
            Just(Positions::At(vec![0, 3])),
        ],
        dtype in prop_oneof![Just(DataType::F32), Just(DataType::F16)],
        batch in 1u64..4,
    ) {
        let mut job = job();
        job.texts = lengths.iter().map(|length| (0..*length as u32).map(|t| t * 13 + 5).collect()).collect();
        job.plan.length = if fixed { RowLength::Exactly(limit) } else { RowLength::Longest(limit) };
        (job.plan.pack, job.plan.split, job.plan.max_samples) = (pack, split, max_samples);
        (job.positions, job.dtype) = (positions, dtype);
        let whole = tempfile::tempdir().unwrap();
        let one = job.run(whole.path()).unwrap();
        job.batch = batch;
        let (root, mut folders) = shards(&job, count);
        folders.reverse();
        let joined = merged(&folders, &root.path().join("out")).unwrap();
        prop_assert_eq!(checksums(&joined), checksums(&one));
        prop_assert_eq!(joined.plan, one.plan);
        prop_assert_eq!((joined.samples, joined.tokens, joined.shard), (one.samples, one.tokens, one.shard));
        prop_assert_eq!(joined.facts.run.merged.len(), count as usize);
    }
}

#[test]
fn folders_that_are_not_all_shards_of_one_extraction_are_refused() {
    let (root, folders) = shards(&job(), 3);
    let refused = |folders: &[PathBuf], out: &str| {
        let Err(Error::Shards { why }) = merged(folders, &root.path().join(out)) else {
            panic!("{folders:?} are refused")
        };
        why
    };
    assert!(refused(&[], "a").contains("0 folders"));
    assert!(refused(&folders[..2], "a").contains("2 of 3 shards"));
    assert!(refused(&folders[1..], "a").contains("where shard 0 of 3"));
    let twice = [folders[0].clone(), folders[0].clone(), folders[1].clone()];
    assert!(refused(&twice, "a").contains("where shard 1 of 3"));

    let mut other = job();
    other.points.pop();
    let (_other_root, others) = shards(&other, 3);
    let mixed = [folders[0].clone(), others[1].clone(), folders[2].clone()];
    assert!(refused(&mixed, "a").contains("arrays differ"));

    merged(&folders, &root.path().join("b")).unwrap();
    assert!(refused(&folders, "b").contains("already"));
}

#[test]
fn a_merge_can_be_cancelled_and_done_again() {
    let (root, folders) = shards(&job(), 2);
    let out = root.path().join("out");
    let mut pieces = 0;
    let cancelled = merge(&folders, &out, RunFacts::default(), &mut |_| {
        pieces += 1;
        pieces < 5
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)));
    merged(&folders, &out).unwrap();
}

#[test]
fn damaged_shards_are_refused() {
    let (root, folders) = shards(&job(), 2);
    let path = folders[1].join("resid_post.layer1.npy");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(merged(&folders, &root.path().join("a")), Err(Error::Damaged { .. })));
    fs::write(&path, bytes).unwrap();
    fs::write(folders[1].join("statistics.sums"), b"no sums").unwrap();
    assert!(matches!(merged(&folders, &root.path().join("b")), Err(Error::Damaged { .. })));
}
