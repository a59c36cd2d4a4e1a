//! Damaged files of every format: reading any of them ends, with rows or with an error, and within a bound of memory.
//!
//! `MILLM_SEED` chooses the damages.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use flate2::{Compression, write::GzEncoder};
use millm_dataset::{Column, DataFile, Dataset, Kind, Selection, find_column, scan};

/// Memory that reading a damaged file of some kilobytes may take: the largest window of Zstandard, and then some.
const MEMORY: usize = 300 << 20;
/// Damaged copies of each file.
const COPIES: u64 = 150;
/// Rows that are read of one damaged file: it may claim any number.
const MAX_ROWS: usize = 1000;

/// Counts the bytes that are allocated, and their peak.
struct Counting;

static PRESENT: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator with the arguments that the caller vouches for.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let present = PRESENT.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(present, Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        PRESENT.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A SplitMix64 generator: equal seeds give equal numbers.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Returns a copy with one to four damages.
fn damaged(good: &[u8], rng: &mut Rng) -> Vec<u8> {
    const NUMBERS: [&[u8]; 6] = [
        &[0xff; 4],
        &[0xff; 8],
        &[0; 4],
        &[0xff, 0xff, 0xff, 0x7f],
        &[0x80; 9],
        &[0xfe, 0xff, 0xff, 0xff, 0x0f],
    ];
    let mut bytes = good.to_vec();
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len());
        match rng.below(6) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2 => bytes.truncate(at.max(1)),
            3 => drop(bytes.drain(at..(at + rng.below(16)).min(bytes.len()))),
            4 => {
                let number = NUMBERS[rng.below(NUMBERS.len())];
                let end = (at + number.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            _ => {
                // Most claims are in the footer of a Parquet file.
                let back = rng.below(2000.min(bytes.len()));
                let at = bytes.len() - 1 - back;
                bytes[at] = rng.next() as u8;
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

/// Reads a file in every way. Errors are as good as rows.
fn read(path: &PathBuf) {
    let files = std::slice::from_ref(path);
    if let Ok((format, columns, _)) = find_column(files, "") {
        let size = std::fs::metadata(path).unwrap().len();
        let file = DataFile { path: path.clone(), size, rows: u64::MAX };
        let dataset = Dataset::new(format, vec![file]);
        for column in columns.iter().filter(|column| column.kind != Kind::Other) {
            for selection in [Selection::default(), Selection { offset: 3, stride: 2 }] {
                dataset.rows(column, selection).take(MAX_ROWS).for_each(drop);
            }
        }
        dataset.rows(&Column::new("absent", Kind::Text), Selection::default()).take(2).for_each(drop);
        dataset.preview(1).take(MAX_ROWS).for_each(drop);
    }
    drop(scan(files, "", &mut |_| true));
}

fn good_files() -> Vec<(String, Vec<u8>)> {
    let jsonl = r#"{"text": "one \"quoted\" ü", "ids": [1, 2, 4294967295], "deep": {"a": [[], {}]}}
{"text": null, "messages": [{"role": "user", "content": "Hi"}, {"role": "a", "content": [{"text": "b"}]}]}
{"n": -1.5e3, "b": true, "text": "\u00e9\ud83d\ude00"}
"#;
    let csv = "id,text,more\n1,\"quoted, \"\"text\"\"\nnext line\",x\n2,ü,\n3,,\"\"\n";
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(jsonl.as_bytes()).unwrap();
    let zstd =
        ruzstd::encoding::compress_to_vec(jsonl.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    let mut files = vec![
        ("a.jsonl".to_owned(), jsonl.as_bytes().to_vec()),
        ("a.csv".to_owned(), csv.as_bytes().to_vec()),
        ("a.txt".to_owned(), b"one\r\ntwo\n\nthree".to_vec()),
        ("a.jsonl.gz".to_owned(), gzip.finish().unwrap()),
        ("a.jsonl.zst".to_owned(), zstd),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/datasets");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        files.push((name, std::fs::read(path).unwrap()));
    }
    files.sort();
    files
}

#[test]
fn damaged_files_end_with_rows_or_an_error() {
    let seed: u64 = std::env::var("MILLM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("MILLM_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    for (name, good) in good_files() {
        let path = folder.path().join(&name);
        for copy in 0..COPIES {
            let mut rng = Rng(seed.wrapping_mul(1 << 20).wrapping_add(copy));
            std::fs::write(&path, damaged(&good, &mut rng)).unwrap();
            let before = PRESENT.load(Relaxed);
            PEAK.store(before, Relaxed);
            read(&path);
            let taken = PEAK.load(Relaxed).saturating_sub(before);
            assert!(taken < MEMORY, "{name}, copy {copy}: {taken} bytes, the limit is {MEMORY}");
        }
    }
}
