//! Partials, their ledgers and their threads, against kills, power cuts and damage.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, mpsc},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    blocks::{Block, Pool},
    ledger::{Marks, Wanted},
    partial::Partial,
    threads::{Arrived, News, Stop, Verifier, Writer},
    work::Work,
};
use crate::{
    digest::Digest,
    policy::{BLOCK_BYTES, SPARE_BLOCKS},
    progress::FileMeter,
};

const BLOCKS: u64 = 20;

/// Large enough to be written past the page cache, with an odd end.
fn content() -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT.get_or_init(|| {
        let size = (BLOCKS - 1) * BLOCK_BYTES + 12_345;
        (0..=size / 8).flat_map(|i| (i * 0x9e37_79b9).to_le_bytes()).take(size as usize).collect()
    })
}

fn wanted() -> Wanted {
    static DIGEST: OnceLock<Digest> = OnceLock::new();
    let digest = DIGEST.get_or_init(|| {
        let mut hasher = Digest::Sha256([0; 32]).hasher(0);
        hasher.update(content());
        hasher.finish()
    });
    Wanted { size: content().len() as u64, digest: *digest, commit: "c".repeat(40) }
}

/// A block as it should be.
fn part(index: u64) -> &'static [u8] {
    let start = (index * BLOCK_BYTES) as usize;
    &content()[start..content().len().min(start + BLOCK_BYTES as usize)]
}

fn block(pool: &Arc<Pool>, bytes: &[u8]) -> Block {
    let mut block = futures::executor::block_on(pool.take()).unwrap();
    assert_eq!(block.fill(bytes, bytes.len()), bytes.len());
    block
}

struct Place {
    folder: TempDir,
    pool: Arc<Pool>,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), pool: Pool::new(SPARE_BLOCKS + 6) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("f")
    }

    fn ledger(&self) -> PathBuf {
        self.folder.path().join("f.ledger")
    }

    fn open(&self) -> (Partial, Marks) {
        Partial::open(&self.path(), wanted(), false).unwrap()
    }

    fn write(&self, partial: &Partial, index: u64) {
        partial.write(index, &block(&self.pool, part(index))).unwrap();
    }

    /// Runs the threads over what is kept, fetching what they find missing; the digest and what was fetched.
    fn finish(&self, order: impl Fn(&mut Vec<u64>)) -> (Digest, BTreeSet<u64>) {
        let (partial, marks) = self.open();
        let partial = Arc::new(partial);
        let work = Arc::new(Work::new(&marks, 1, None));
        let (send, queue) = mpsc::channel();
        let (news, heard) = mpsc::channel();
        let stop = Stop::default();
        let queue = Arc::new(Mutex::new(queue));
        let writer = Writer { partial: Arc::clone(&partial), arrived: queue, news: news.clone() };
        let verifier = Verifier {
            partial: Arc::clone(&partial),
            marks,
            work: Arc::clone(&work),
            pool: Arc::clone(&self.pool),
            meter: Arc::new(FileMeter::default()),
            news: heard,
            stop: stop.flag(),
        };
        let writers = [std::thread::spawn({
            let writer = writer.clone();
            move || writer.run()
        })];
        let last = std::thread::spawn(move || writer.run());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (digest, fetched) = runtime.block_on(async {
            let mut verifier = tokio::task::spawn_blocking(move || verifier.run());
            let mut fetched = BTreeSet::new();
            let mut first = Vec::new();
            while let Some(run) = futures::FutureExt::now_or_never(work.next()) {
                first.extend(run);
            }
            order(&mut first);
            let mut first = first.into_iter();
            loop {
                let next = async {
                    match first.next() {
                        Some(index) => index,
                        None => work.next().await.start,
                    }
                };
                tokio::select! {
                    biased;
                    digest = &mut verifier => break (digest.unwrap().unwrap().unwrap(), fetched),
                    index = next => {
                        let mut block = self.pool.take().await.unwrap();
                        block.fill(part(index), part(index).len());
                        let arrived = Arrived { index, block: Arc::new(block) };
                        news.send(News::Arrived(arrived.clone())).unwrap();
                        send.send(arrived).unwrap();
                        fetched.insert(index);
                    }
                }
            }
        });
        drop(send);
        for writer in writers.into_iter().chain([last]) {
            writer.join().unwrap().unwrap();
        }
        partial.publish(&self.folder.path().join("done")).unwrap();
        assert!(fs::read(self.folder.path().join("done")).unwrap() == content());
        assert_eq!(fs::read_dir(&self.folder).unwrap().count(), 1, "ledger and partial are gone");
        (digest, fetched)
    }
}

fn marked(marks: &Marks) -> BTreeSet<u64> {
    (0..).zip(marks).filter(|(_, mark)| mark.is_some()).map(|(index, _)| index).collect()
}

fn damage(path: &Path, index: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xee; 64], index * BLOCK_BYTES + 100).unwrap();
}

#[test]
fn blocks_may_come_in_any_order() {
    let place = Place::new();
    // The first one last: all the others have to wait, more of them than memory may hold.
    let (digest, fetched) = place.finish(|order| order.reverse());
    assert_eq!((digest, fetched.len() as u64), (wanted().digest, BLOCKS));
}

#[test]
fn what_is_kept_is_not_fetched_and_what_is_damaged_is() {
    let place = Place::new();
    let (partial, _) = place.open();
    for index in [0, 1, 2, 5, 19] {
        place.write(&partial, index);
    }
    drop(partial);
    damage(&place.path(), 1);
    let (digest, fetched) = place.finish(|_| ());
    assert_eq!(digest, wanted().digest);
    assert_eq!(fetched, (0..BLOCKS).filter(|index| ![0, 2, 5, 19].contains(index)).collect());
}

#[test]
fn what_does_not_belong_to_the_file_counts_for_nothing() {
    let check = |spoil: &dyn Fn(&Place)| {
        let place = Place::new();
        let (partial, _) = place.open();
        place.write(&partial, 0);
        drop(partial);
        assert_eq!(marked(&place.open().1), BTreeSet::from([0]));
        spoil(&place);
        let (_, marks) = place.open();
        assert!(marked(&marks).is_empty());
        assert_eq!(fs::metadata(place.path()).unwrap().len(), wanted().size);
    };
    check(&|place| fs::write(place.ledger(), b"{ half").unwrap());
    check(&|place| fs::write(place.path(), b"short").unwrap());
    check(&|place| OpenOptions::new().append(true).open(place.path()).unwrap().write_all(b"more").unwrap());
    check(&|place| fs::remove_file(place.path()).unwrap());
    check(&|place| {
        let other = Wanted { digest: Digest::Sha256([1; 32]), ..wanted() };
        drop(Partial::open(&place.path(), other, false).unwrap());
    });
    check(&|place| drop(Partial::open(&place.path(), wanted(), true).unwrap()));
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64),
    /// The process is killed while it adds a line: so much of one is there.
    Kill(usize),
    /// A noted block never reached the disk.
    Lose(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..BLOCKS).prop_map(Step::Write),
        2 => (0..12_usize).prop_map(Step::Kill),
        1 => (0..BLOCKS).prop_map(Step::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_is_lost_or_invented(steps in prop::collection::vec(step(), 1..30)) {
        let place = Place::new();
        let (mut partial, _) = place.open();
        let (mut written, mut lost) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Write(index) => {
                    place.write(&partial, index);
                    written.insert(index);
                    lost.remove(&index);
                }
                Step::Kill(length) => {
                    drop(partial);
                    if place.ledger().exists() {
                        let mut ledger = OpenOptions::new().append(true).open(place.ledger()).unwrap();
                        ledger.write_all(&b"7 0badcafe\n"[..length.min(10)]).unwrap();
                    }
                    let (again, marks) = place.open();
                    prop_assert_eq!(&marked(&marks), &written);
                    partial = again;
                }
                Step::Lose(index) if written.contains(&index) => {
                    damage(&place.path(), index);
                    lost.insert(index);
                }
                Step::Lose(_) => {}
            }
        }
        drop(partial);
        let (digest, fetched) = place.finish(|_| ());
        prop_assert_eq!(digest, wanted().digest);
        let missing: BTreeSet<u64> = (0..BLOCKS).filter(|i| !written.contains(i) || lost.contains(i)).collect();
        prop_assert_eq!(fetched, missing);
    }
}
