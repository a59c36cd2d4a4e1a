//! The known inputs of a target: the files of `tests/fuzz/corpus/<target>`, and seeds that are computed because they
//! are large.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub struct Corpus {
    folder: PathBuf,
    inputs: Vec<Vec<u8>>,
}

impl Corpus {
    pub fn open(target: &str, seeds: Vec<Vec<u8>>) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let mut inputs: Vec<Vec<u8>> =
            paths.iter().map(|path| fs::read(path).expect("it is a file")).collect();
        assert!(!inputs.is_empty(), "{} has no files", folder.display());
        inputs.extend(seeds);
        Self { folder, inputs }
    }

    pub fn inputs(&self) -> &[Vec<u8>] {
        &self.inputs
    }

    /// Adds an input as a base of later mutations.
    pub fn add(&mut self, input: Vec<u8>) {
        self.inputs.push(input);
    }

    /// Writes an input to a file that is named by its hash. Returns the path.
    pub fn save(&self, input: &[u8]) -> PathBuf {
        let hash = hex::encode(Sha256::digest(input));
        let path = self.folder.join(&hash[..16]);
        fs::write(&path, input).expect("the corpus can be written");
        path
    }
}
