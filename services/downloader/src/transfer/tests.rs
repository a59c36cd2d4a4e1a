//! Partial files, their ledgers and their threads under kills, power cuts and damage.

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
    block_queue::BlockQueue,
    buffer_pool::{Buffer, BufferPool},
    ledger::{BlockChecksums, ExpectedFile},
    partial::Partial,
    writer::{ReceivedBlock, StopGuard, Verifier, VerifierEvent, Writer},
};
use crate::{
    hub::digest::Digest,
    limits::{BLOCK_BYTES, SPARE_BUFFERS},
    progress::FileMeter,
};

const BLOCKS: u64 = 20;

/// Large enough to be written past the page cache, and no multiple of a block.
fn content() -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT.get_or_init(|| {
        let size = (BLOCKS - 1) * BLOCK_BYTES + 12_345;
        (0..=size / 8).flat_map(|i| (i * 0x9e37_79b9).to_le_bytes()).take(size as usize).collect()
    })
}

fn expected() -> ExpectedFile {
    static DIGEST: OnceLock<Digest> = OnceLock::new();
    let digest = DIGEST.get_or_init(|| {
        let mut hasher = Digest::Sha256([0; 32]).hasher(0);
        hasher.update(content());
        hasher.finish()
    });
    ExpectedFile { size: content().len() as u64, digest: *digest, commit: "c".repeat(40) }
}

/// The right bytes of a block.
fn part(index: u64) -> &'static [u8] {
    let start = (index * BLOCK_BYTES) as usize;
    &content()[start..content().len().min(start + BLOCK_BYTES as usize)]
}

fn buffer(pool: &Arc<BufferPool>, bytes: &[u8]) -> Buffer {
    let mut buffer = futures::executor::block_on(pool.acquire()).unwrap();
    assert_eq!(buffer.fill(bytes, bytes.len()), bytes.len());
    buffer
}

struct Fixture {
    folder: TempDir,
    pool: Arc<BufferPool>,
}

impl Fixture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), pool: BufferPool::new(SPARE_BUFFERS + 6) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("f")
    }

    fn ledger(&self) -> PathBuf {
        self.folder.path().join("f.ledger")
    }

    fn open(&self) -> (Partial, BlockChecksums) {
        Partial::open(&self.path(), expected(), false).unwrap()
    }

    fn write(&self, partial: &Partial, index: u64) {
        partial.write(index, &buffer(&self.pool, part(index))).unwrap();
    }

    /// Runs the threads over the kept blocks and fetches the missing ones. Returns the digest and the fetched blocks.
    fn finish(&self, order: impl Fn(&mut Vec<u64>)) -> (Digest, BTreeSet<u64>) {
        let (partial, checksums) = self.open();
        let partial = Arc::new(partial);
        let queue = Arc::new(BlockQueue::new(&checksums, 1, None));
        let (received, received_blocks) = mpsc::channel();
        let (events, verifier_events) = mpsc::channel();
        let stop = StopGuard::default();
        let received_blocks = Arc::new(Mutex::new(received_blocks));
        let writer =
            Writer { partial: Arc::clone(&partial), received: received_blocks, events: events.clone() };
        let verifier = Verifier {
            partial: Arc::clone(&partial),
            checksums,
            queue: Arc::clone(&queue),
            pool: Arc::clone(&self.pool),
            meter: Arc::new(FileMeter::default()),
            events: verifier_events,
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
            while let Some(run) = futures::FutureExt::now_or_never(queue.next()) {
                first.extend(run);
            }
            order(&mut first);
            let mut first = first.into_iter();
            loop {
                let next = async {
                    match first.next() {
                        Some(index) => index,
                        None => queue.next().await.start,
                    }
                };
                tokio::select! {
                    biased;
                    digest = &mut verifier => break (digest.unwrap().unwrap().unwrap(), fetched),
                    index = next => {
                        let mut buffer = self.pool.acquire().await.unwrap();
                        buffer.fill(part(index), part(index).len());
                        let block = ReceivedBlock { index, buffer: Arc::new(buffer) };
                        events.send(VerifierEvent::Received(block.clone())).unwrap();
                        received.send(block).unwrap();
                        fetched.insert(index);
                    }
                }
            }
        });
        drop(received);
        for writer in writers.into_iter().chain([last]) {
            writer.join().unwrap().unwrap();
        }
        partial.finish(&self.folder.path().join("done")).unwrap();
        assert!(fs::read(self.folder.path().join("done")).unwrap() == content());
        assert_eq!(
            fs::read_dir(&self.folder).unwrap().count(),
            1,
            "the ledger and the partial file are gone"
        );
        (digest, fetched)
    }
}

fn noted(checksums: &BlockChecksums) -> BTreeSet<u64> {
    (0..).zip(checksums).filter(|(_, checksum)| checksum.is_some()).map(|(index, _)| index).collect()
}

fn damage(path: &Path, index: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xee; 64], index * BLOCK_BYTES + 100).unwrap();
}

#[test]
fn blocks_may_come_in_any_order() {
    let fixture = Fixture::new();
    // The first block comes last: the others have to wait, and they are more than the buffers hold.
    let (digest, fetched) = fixture.finish(|order| order.reverse());
    assert_eq!((digest, fetched.len() as u64), (expected().digest, BLOCKS));
}

#[test]
fn kept_blocks_are_not_fetched_and_damaged_ones_are() {
    let fixture = Fixture::new();
    let (partial, _) = fixture.open();
    for index in [0, 1, 2, 5, 19] {
        fixture.write(&partial, index);
    }
    drop(partial);
    damage(&fixture.path(), 1);
    let (digest, fetched) = fixture.finish(|_| ());
    assert_eq!(digest, expected().digest);
    assert_eq!(fetched, (0..BLOCKS).filter(|index| ![0, 2, 5, 19].contains(index)).collect());
}

#[test]
fn notes_about_another_file_do_not_count() {
    let check = |spoil: &dyn Fn(&Fixture)| {
        let fixture = Fixture::new();
        let (partial, _) = fixture.open();
        fixture.write(&partial, 0);
        drop(partial);
        assert_eq!(noted(&fixture.open().1), BTreeSet::from([0]));
        spoil(&fixture);
        let (_, checksums) = fixture.open();
        assert!(noted(&checksums).is_empty());
        assert_eq!(fs::metadata(fixture.path()).unwrap().len(), expected().size);
    };
    check(&|fixture| fs::write(fixture.ledger(), b"{ half").unwrap());
    check(&|fixture| fs::write(fixture.path(), b"short").unwrap());
    check(&|fixture| {
        OpenOptions::new().append(true).open(fixture.path()).unwrap().write_all(b"more").unwrap();
    });
    check(&|fixture| fs::remove_file(fixture.path()).unwrap());
    check(&|fixture| {
        let other = ExpectedFile { digest: Digest::Sha256([1; 32]), ..expected() };
        drop(Partial::open(&fixture.path(), other, false).unwrap());
    });
    check(&|fixture| drop(Partial::open(&fixture.path(), expected(), true).unwrap()));
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64),
    /// The process is killed while it appends a line: this many bytes of the line are written.
    Kill(usize),
    /// A noted block never reached the disk, as after a power cut.
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
        let fixture = Fixture::new();
        let (mut partial, _) = fixture.open();
        let (mut written, mut lost) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Write(index) => {
                    fixture.write(&partial, index);
                    written.insert(index);
                    lost.remove(&index);
                }
                Step::Kill(length) => {
                    drop(partial);
                    if fixture.ledger().exists() {
                        let mut ledger = OpenOptions::new().append(true).open(fixture.ledger()).unwrap();
                        ledger.write_all(&b"7 0badcafe\n"[..length.min(10)]).unwrap();
                    }
                    let (again, checksums) = fixture.open();
                    prop_assert_eq!(&noted(&checksums), &written);
                    partial = again;
                }
                Step::Lose(index) if written.contains(&index) => {
                    damage(&fixture.path(), index);
                    lost.insert(index);
                }
                Step::Lose(_) => {}
            }
        }
        drop(partial);
        let (digest, fetched) = fixture.finish(|_| ());
        prop_assert_eq!(digest, expected().digest);
        let missing: BTreeSet<u64> = (0..BLOCKS).filter(|i| !written.contains(i) || lost.contains(i)).collect();
        prop_assert_eq!(fetched, missing);
    }
}
