//! A partial file and its ledger: which bytes of which file are surely there. Survives kill -9; what it says is
//! never trusted beyond the final hash.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    cache::{absent_is_fine, read_json, write_json},
    digest::{Digest, Hasher},
    policy::NOTE_BYTES,
};

/// As it lies beside the partial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ledger {
    version: u32,
    size: u64,
    digest: Digest,
    commit: String,
    /// Bytes that are there, in order and apart. A file that came in one stream has one range, from 0.
    ranges: Vec<Range<u64>>,
}

const VERSION: u32 = 1;

/// What a partial is to become.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub size: u64,
    pub digest: Digest,
    pub commit: String,
}

/// A file that grows from its start, hashed as it does. Blocks: it lives on threads that may.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    wanted: Wanted,
    hasher: Hasher,
    len: u64,
    noted: u64,
}

impl Partial {
    /// Opens what an earlier run left, or makes it anew. The kept bytes are read once more, for the hash.
    pub fn open(path: &Path, wanted: Wanted) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let ledger: Option<Ledger> = read_json(&ledger_path(path));
        let kept = ledger.filter(|ledger| {
            (ledger.version, ledger.size, ledger.digest) == (VERSION, wanted.size, wanted.digest)
        });
        let kept = kept.and_then(|ledger| ledger.ranges.first().cloned()).filter(|range| range.start == 0);
        let kept = kept.map_or(0, |range| range.end).min(file.metadata()?.len()).min(wanted.size);
        let hasher = wanted.digest.hasher(wanted.size);
        let mut partial = Self { file, path: path.to_owned(), wanted, hasher, len: 0, noted: 0 };
        partial.take_over(kept)?;
        Ok(partial)
    }

    fn take_over(&mut self, kept: u64) -> io::Result<()> {
        self.file.set_len(kept)?;
        self.file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 20];
        while self.len < kept {
            let most = buffer.len().min((kept - self.len) as usize);
            let read = self.file.read(&mut buffer[..most])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.hasher.update(&buffer[..read]);
            self.len += read as u64;
        }
        self.noted = kept;
        Ok(())
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_complete(&self) -> bool {
        self.len == self.wanted.size
    }

    /// Adds the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        if self.len - self.noted >= NOTE_BYTES {
            self.note()?;
        }
        Ok(())
    }

    /// Writes down what is there.
    pub fn note(&mut self) -> io::Result<()> {
        let ledger = Ledger {
            version: VERSION,
            size: self.wanted.size,
            digest: self.wanted.digest,
            commit: self.wanted.commit.clone(),
            ranges: std::iter::once(0..self.len).collect(),
        };
        write_json(&ledger_path(&self.path), &ledger)?;
        self.noted = self.len;
        Ok(())
    }

    /// Begins again from nothing.
    pub fn restart(&mut self) -> io::Result<()> {
        self.hasher = self.wanted.digest.hasher(self.wanted.size);
        self.len = 0;
        self.noted = 0;
        absent_is_fine(std::fs::remove_file(ledger_path(&self.path)))?;
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0)).map(|_| ())
    }

    /// What the bytes so far hash to.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Gives the verified file its name.
    pub fn publish(self, name: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, name)?;
        absent_is_fine(std::fs::remove_file(ledger_path(&self.path)))
    }
}

fn ledger_path(partial: &Path) -> PathBuf {
    let mut name = partial.as_os_str().to_owned();
    name.push(".ledger.json");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(content: &[u8]) -> Wanted {
        let blank = Digest::Sha256([0; 32]);
        let mut hasher = blank.hasher(content.len() as u64);
        hasher.update(content);
        Wanted { size: content.len() as u64, digest: hasher.finish(), commit: "c".repeat(40) }
    }

    #[test]
    fn a_partial_goes_on_where_its_ledger_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let content: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let mut partial = Partial::open(&path, wanted(&content)).unwrap();
        partial.append(&content[..4000]).unwrap();
        partial.note().unwrap();
        partial.append(&content[4000..5000]).unwrap();
        drop(partial);

        let mut partial = Partial::open(&path, wanted(&content)).unwrap();
        assert_eq!(partial.len(), 4000);
        partial.append(&content[4000..]).unwrap();
        assert!(partial.is_complete());
        assert_eq!(partial.digest(), wanted(&content).digest);
        let name = folder.path().join("done");
        partial.publish(&name).unwrap();
        assert_eq!(std::fs::read(name).unwrap(), content);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_ledger_of_another_file_or_without_bytes_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let (one, other) = (vec![1; 100], vec![2; 100]);
        let mut partial = Partial::open(&path, wanted(&one)).unwrap();
        partial.append(&one[..50]).unwrap();
        partial.note().unwrap();
        drop(partial);
        assert_eq!(Partial::open(&path, wanted(&other)).unwrap().len(), 0);
        // The bytes are gone now, the ledger is not.
        assert_eq!(Partial::open(&path, wanted(&one)).unwrap().len(), 0);
        std::fs::write(ledger_path(&path), b"{ half").unwrap();
        assert_eq!(Partial::open(&path, wanted(&one)).unwrap().len(), 0);
    }
}
