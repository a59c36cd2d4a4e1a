//! `metadata.json`: everything that is needed to make an extraction again, and the checksums of its files.
//!
//! It is written last. A folder that has it is complete.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    error::{At as _, Error, Result},
    layout::Layout,
    npy::{DataType, Header},
    plan::{PlanCounts, Shard},
    plan_file::Plan,
};

/// The file's name.
pub const METADATA: &str = "metadata.json";
/// The version of the format.
const VERSION: u32 = 1;
/// The largest file that is read.
const MAX_METADATA_BYTES: u64 = 64 << 20;

/// The content of `metadata.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Of the format.
    pub version: u32,
    /// What the caller knows.
    #[serde(flatten)]
    pub facts: Facts,
    /// The part of all samples that the folder has.
    pub shard: Shard,
    /// Samples of the folder.
    pub samples: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Tokens of a row.
    pub sequence_length: u64,
    /// What all shards together have.
    pub plan: PlanCounts,
    /// The arrays of activations, in the order of their computation.
    pub arrays: Vec<Array>,
    /// All other files of the folder, by name.
    pub files: Vec<OutputFile>,
}

/// What the caller knows of an extraction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The model.
    pub model: ModelFacts,
    /// The dataset.
    pub dataset: DatasetFacts,
    /// What was asked for.
    pub settings: SettingsFacts,
    /// The program and the machine.
    pub engine: EngineFacts,
    /// When and where. It differs between runs that are otherwise equal.
    pub run: RunFacts,
}

/// The model of an extraction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// The model's name when the extraction began.
    pub handle: String,
    /// `owner/name`; empty for local models.
    pub repo_id: String,
    /// The commit of the repository; empty for local models.
    pub commit: String,
    /// `Q4`, `NATIVE`, …
    pub quantization: String,
    /// As config.json names it.
    pub architecture: String,
    /// The files of the model.
    pub files: Vec<FileFact>,
    /// SHA-256 of the tokenizer's files.
    pub tokenizer_sha256: String,
    /// SHA-256 of the chat template; empty where the model has none.
    pub chat_template_sha256: String,
}

/// The dataset of an extraction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DatasetFacts {
    /// The dataset's name when the extraction began.
    pub handle: String,
    /// `owner/name`; empty for local datasets.
    pub repo_id: String,
    /// The commit of the repository; empty for local datasets.
    pub commit: String,
    /// The configuration of its data files.
    pub config: String,
    /// The split of its data files.
    pub split: String,
    /// `jsonl`, `csv`, `text` or `parquet`.
    pub format: String,
    /// The column that was read.
    pub column: String,
    /// SHA-256 of the files' checksums, in their order.
    pub sha256: String,
    /// The files of the dataset, in their order.
    pub files: Vec<FileFact>,
}

/// A file that was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FileFact {
    /// The name, without its folder.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Hexadecimal; empty where it is not known.
    pub sha256: String,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SettingsFacts {
    /// As they were written.
    pub points: Vec<String>,
    /// As they were written.
    pub layers: String,
    /// 0 is all.
    pub max_samples: u64,
    /// 0 is the longest text.
    pub sequence_length: u32,
    /// `all`, `last` or indices.
    pub positions: String,
    /// Rows hold several texts.
    pub pack: bool,
    /// Longer texts go on in the next rows.
    pub split: bool,
    /// Messages are rendered with the chat template.
    pub chat_template: bool,
    /// The tokenizer's special tokens are left out.
    pub no_special_tokens: bool,
    /// The type of the activations.
    pub dtype: Option<DataType>,
    /// Nothing of an extraction is random: there is no seed.
    pub seed: Option<u64>,
}

/// The program and the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineFacts {
    /// Of miLLM.
    pub version: String,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// The kernels that computed: `avx512`.
    pub kernels: String,
    /// The machine's processor.
    pub processor: String,
    /// The processor's features that kernels use.
    pub features: Vec<String>,
}

/// When and where an extraction ran.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// The job.
    pub id: String,
    /// The machine's name.
    pub host: String,
    /// RFC 3339.
    pub start_time: String,
    /// RFC 3339.
    pub end_time: String,
    /// The ids of the shards' jobs, of an extraction that was merged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<String>,
}

/// An array of activations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Array {
    /// `resid_post.layer3.npy`.
    pub file: String,
    /// `resid_post.3`.
    pub point: String,
    /// `blocks.3.hook_resid_post`; absent where TransformerLens has no name.
    pub transformer_lens: Option<String>,
    /// The type of the numbers. numpy shows bfloat16 as uint16: the numbers' bits.
    pub dtype: DataType,
    /// `[samples, positions, width…]`.
    pub shape: Vec<u64>,
    /// The file's bytes.
    pub size_bytes: u64,
    /// Hexadecimal, of the whole file.
    pub sha256: String,
}

impl Array {
    /// Returns the array's header.
    pub fn header(&self) -> Header {
        Header { dtype: self.dtype, shape: self.shape.clone() }
    }
}

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// The name within the folder.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

impl Metadata {
    /// Describes the complete files of a folder. `hashes` has every output file.
    ///
    /// # Errors
    /// [`Error::Damaged`] where a checksum is missing.
    pub fn new(
        facts: Facts,
        plan: &Plan,
        layout: &Layout,
        mut hashes: BTreeMap<String, OutputFile>,
    ) -> Result<Self> {
        let mut arrays = Vec::with_capacity(layout.points.len());
        for point in &layout.points {
            let file = point.file_name();
            let Some(OutputFile { size_bytes, sha256, .. }) = hashes.remove(&file) else {
                return Err(Error::Damaged { file, why: "it has no checksum".to_owned() });
            };
            let Header { dtype, shape } = layout.header(point);
            arrays.push(Array {
                file,
                point: point.hook.name(),
                transformer_lens: point.hook.transformer_lens(),
                dtype,
                shape,
                size_bytes,
                sha256,
            });
        }
        Ok(Self {
            version: VERSION,
            facts,
            shard: plan.shard,
            samples: plan.samples,
            tokens: plan.tokens,
            sequence_length: plan.sequence_length as u64,
            plan: plan.counts,
            arrays,
            files: hashes.into_values().collect(),
        })
    }

    /// Reads the metadata of a complete folder.
    ///
    /// # Errors
    /// [`Error::Io`] where there is none, [`Error::Damaged`] where it is not valid.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(METADATA);
        let size = fs::metadata(&path).at(&path)?.len();
        if size > MAX_METADATA_BYTES {
            let why = format!("it has {size} bytes, and at most {MAX_METADATA_BYTES} are read");
            return Err(Error::damaged(&path, why));
        }
        let text = fs::read(&path).at(&path)?;
        let metadata: Self =
            serde_json::from_slice(&text).map_err(|error| Error::damaged(&path, error.to_string()))?;
        if metadata.version != VERSION {
            let why = format!("it has version {}, and this program knows {VERSION}", metadata.version);
            return Err(Error::damaged(&path, why));
        }
        let wrong = metadata.all_files().map(|file| file.name).find(|name| !is_file_name(name));
        if let Some(name) = wrong {
            return Err(Error::damaged(&path, format!("'{}' is no file's name", crate::error::shown(&name))));
        }
        Ok(metadata)
    }

    /// Returns the plan behind the folder's tokens, to read them.
    pub fn token_plan(&self) -> Plan {
        let length = self.sequence_length as usize;
        Plan::of_complete(self.shard, self.samples, self.tokens, length, self.plan)
    }

    /// Iterates over all files but the metadata itself.
    pub fn all_files(&self) -> impl Iterator<Item = OutputFile> + '_ {
        let arrays = self.arrays.iter().map(|array| OutputFile {
            name: array.file.clone(),
            size_bytes: array.size_bytes,
            sha256: array.sha256.clone(),
        });
        arrays.chain(self.files.iter().cloned())
    }
}

/// Returns whether a text names a file within its folder.
pub(crate) fn is_file_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Computes the checksum of a file. `progress` receives the bytes of each piece and returns whether to go on.
///
/// # Errors
/// [`Error::Io`], or [`Error::Cancelled`] where `progress` said so.
pub fn hash_file(path: &Path, progress: &mut dyn FnMut(u64) -> bool) -> Result<OutputFile> {
    const PIECE: usize = 1 << 20;
    let mut file = File::open(path).at(path)?;
    let mut digest = Sha256::new();
    let (mut buffer, mut size_bytes) = (vec![0; PIECE], 0);
    loop {
        let read = file.read(&mut buffer).at(path)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        size_bytes += read as u64;
        if !progress(read as u64) {
            return Err(Error::Cancelled);
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(OutputFile { name, size_bytes, sha256: hex::encode(digest.finalize()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_stay_in_their_folder() {
        for good in ["resid_post.layer3.npy", "samples.jsonl", "z.layer0.npy"] {
            assert!(is_file_name(good), "{good}");
        }
        for bad in ["", "..", ".hidden", "../x", "a/b", "a\\b", "a b", "a\0", &"a".repeat(256)] {
            assert!(!is_file_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn files_are_hashed_and_hashing_can_be_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"abc").unwrap();
        let mut seen = 0;
        let file = hash_file(&path, &mut |bytes| {
            seen += bytes;
            true
        });
        let file = file.unwrap();
        assert_eq!((file.name.as_str(), file.size_bytes, seen), ("a", 3, 3));
        assert_eq!(file.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(matches!(hash_file(&path, &mut |_| false), Err(Error::Cancelled)));
        assert!(matches!(hash_file(&folder.path().join("b"), &mut |_| true), Err(Error::Io { .. })));
    }

    #[test]
    fn invalid_metadata_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Metadata::load(folder.path()), Err(Error::Io { .. })));
        for text in ["", "{}", "[1]", "null"] {
            fs::write(folder.path().join(METADATA), text).unwrap();
            let error = Metadata::load(folder.path()).unwrap_err().to_string();
            assert!(error.starts_with("metadata.json: "), "{error}");
        }
    }
}
