//! The plan of a job on disk. The tokens are an output themselves (`tokens.npy`, `mask.npy`, `samples.jsonl`), so a job
//! that is resumed reads them there and needs its dataset no more.
//!
//! While the plan is made, the rows lie one after the other in a file without padding: how long the longest is, and how
//! many there are, shows only at the end.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{At as _, Error, Result},
    npy::{ArrayFile, DataType, Header, RealDisk, complete, partial},
    plan::{Part, PlanCounts, PlanSettings, Positions, RowLength, Sample, Shard},
};

/// The summary of a finished plan.
pub(crate) const PLAN: &str = "plan.json";
/// Token ids, `[samples, seq]`.
pub const TOKENS: &str = "tokens.npy";
/// Which tokens are real, `[samples, seq]`.
pub const MASK: &str = "mask.npy";
/// The position of each column, `[samples, positions]`; -1 where the sample is too short.
pub const POSITIONS: &str = "positions.npy";
/// Where each sample comes from, one JSON object a line.
pub const SAMPLES: &str = "samples.jsonl";
/// The rows while the plan is made.
const ROWS: &str = "plan.rows";

/// The summary of a job's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Of the format.
    version: u32,
    /// Samples of this job.
    pub samples: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Tokens of a row.
    pub sequence_length: usize,
    /// The part of all samples that this job has.
    pub shard: Shard,
    /// What all shards together have.
    pub counts: PlanCounts,
}

/// A line of `samples.jsonl`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleLine {
    /// The index among the samples of all shards.
    pub sample: u64,
    /// Tokens of the sample.
    pub tokens: u64,
    /// Where they come from, in their order.
    pub parts: Vec<Part>,
}

impl Plan {
    const VERSION: u32 = 1;

    /// Reads the plan of a folder. `None` where none was finished.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Damaged`] where the file is no plan.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(PLAN);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path, error)),
        };
        let plan: Self =
            serde_json::from_slice(&text).map_err(|error| Error::damaged(&path, error.to_string()))?;
        if plan.version != Self::VERSION {
            let why = format!("it has version {}, and this program knows {}", plan.version, Self::VERSION);
            return Err(Error::damaged(&path, why));
        }
        Ok(Some(plan))
    }

    /// Returns the plan of a folder that is complete.
    pub(crate) fn of_complete(
        shard: Shard,
        samples: u64,
        tokens: u64,
        sequence_length: usize,
        counts: PlanCounts,
    ) -> Self {
        Self { version: Self::VERSION, samples, tokens, sequence_length, shard, counts }
    }

    fn tokens_header(&self) -> Header {
        Header { dtype: DataType::I32, shape: vec![self.samples, self.sequence_length as u64] }
    }

    fn mask_header(&self) -> Header {
        Header { dtype: DataType::Bool, ..self.tokens_header() }
    }
}

/// Writes a plan while it is made.
#[derive(Debug)]
pub struct PlanWriter {
    folder: PathBuf,
    rows: BufWriter<File>,
    lines: BufWriter<File>,
    samples: u64,
    tokens: u64,
}

impl PlanWriter {
    /// Begins a plan in a folder, in place of an unfinished one.
    ///
    /// # Errors
    /// [`Error::DiskFull`] or [`Error::Io`].
    pub fn create(folder: &Path) -> Result<Self> {
        let create = |name: &str| -> Result<BufWriter<File>> {
            let path = partial(&folder.join(name));
            Ok(BufWriter::new(File::create(&path).at(&path)?))
        };
        let (rows, lines) = (create(ROWS)?, create(SAMPLES)?);
        Ok(Self { folder: folder.to_owned(), rows, lines, samples: 0, tokens: 0 })
    }

    /// Adds the job's next sample.
    ///
    /// # Errors
    /// [`Error::DiskFull`] or [`Error::Io`].
    pub fn write(&mut self, sample: &Sample) -> Result<()> {
        let tokens = sample.tokens.len() as u64;
        let line = SampleLine { sample: sample.index, tokens, parts: sample.parts.clone() };
        let mut text = serde_json::to_vec(&line).map_err(io::Error::from).at(&self.folder.join(SAMPLES))?;
        text.push(b'\n');
        self.lines.write_all(&text).at(&self.folder.join(SAMPLES))?;
        let rows = self.folder.join(ROWS);
        self.rows.write_all(&(sample.tokens.len() as u32).to_le_bytes()).at(&rows)?;
        for token in &sample.tokens {
            self.rows.write_all(&token.to_le_bytes()).at(&rows)?;
        }
        self.samples += 1;
        self.tokens += tokens;
        Ok(())
    }

    /// Writes the arrays of tokens, and the summary as the last file.
    ///
    /// # Errors
    /// [`Error::DiskFull`] or [`Error::Io`].
    pub fn finish(
        mut self,
        settings: &PlanSettings,
        positions: &Positions,
        counts: PlanCounts,
    ) -> Result<Plan> {
        let folder = self.folder.clone();
        self.lines.flush().at(&folder.join(SAMPLES))?;
        self.rows.flush().at(&folder.join(ROWS))?;
        let sequence_length = match settings.length {
            RowLength::Exactly(tokens) => tokens,
            RowLength::Longest(_) => counts.longest.max(1) as usize,
        };
        let (samples, tokens, shard) = (self.samples, self.tokens, settings.shard);
        let plan = Plan { version: Plan::VERSION, samples, tokens, sequence_length, shard, counts };
        drop(self);
        write_arrays(&folder, &plan, positions)?;
        complete(&folder.join(SAMPLES))?;
        let rows = partial(&folder.join(ROWS));
        fs::remove_file(&rows).at(&rows)?;
        write_json(&folder.join(PLAN), &plan)?;
        Ok(plan)
    }
}

/// Pads the rows into arrays.
fn write_arrays(folder: &Path, plan: &Plan, positions: &Positions) -> Result<()> {
    let create =
        |name: &str, header: &Header| ArrayFile::create(&folder.join(name), header, Arc::new(RealDisk));
    let tokens = create(TOKENS, &plan.tokens_header())?;
    let mask = create(MASK, &plan.mask_header())?;
    let columns = positions.columns(plan.sequence_length);
    let header = Header { dtype: DataType::I32, shape: vec![plan.samples, columns as u64] };
    let chosen = match positions {
        Positions::All => None,
        Positions::At(_) => Some(create(POSITIONS, &header)?),
    };
    let path = partial(&folder.join(ROWS));
    let mut rows = BufReader::new(File::open(&path).at(&path)?);
    let mut bytes = Vec::new();
    for sample in 0..plan.samples {
        let mut length = [0; 4];
        rows.read_exact(&mut length).at(&path)?;
        let length = u32::from_le_bytes(length) as usize;
        bytes.resize(4 * length, 0);
        rows.read_exact(&mut bytes).at(&path)?;
        let first = sample * plan.sequence_length as u64;
        tokens.write(first, &bytes)?;
        bytes.clear();
        bytes.resize(length, 1);
        mask.write(first, &bytes)?;
        if let Some(chosen) = &chosen {
            bytes.clear();
            for position in positions.of(length) {
                let position = position.map_or(-1, |position| position as i32);
                bytes.extend_from_slice(&position.to_le_bytes());
            }
            chosen.write(sample * columns as u64, &bytes)?;
        }
    }
    drop((tokens, mask));
    complete(&folder.join(TOKENS))?;
    complete(&folder.join(MASK))?;
    if chosen.is_some() { complete(&folder.join(POSITIONS)) } else { Ok(()) }
}

/// Writes a file beside `path` and renames it: readers see the old content or the new.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::from).at(path)?;
    text.push(b'\n');
    write_whole(path, &text)
}

/// Writes a whole file under its final name, complete or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = partial(path);
    fs::write(&partial, bytes).at(&partial)?;
    complete(path)
}

/// Reads the samples of a finished plan.
#[derive(Debug)]
pub struct PlanReader {
    tokens: ArrayFile,
    mask: ArrayFile,
    samples: u64,
    sequence_length: usize,
}

impl PlanReader {
    /// Opens the arrays of a folder's plan.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Damaged`] where the arrays are another plan's.
    pub fn open(folder: &Path, plan: &Plan) -> Result<Self> {
        let tokens = ArrayFile::open(&folder.join(TOKENS), &plan.tokens_header())?;
        let mask = ArrayFile::open(&folder.join(MASK), &plan.mask_header())?;
        let Plan { samples, sequence_length, .. } = *plan;
        Ok(Self { tokens, mask, samples, sequence_length })
    }

    /// Returns the tokens of some samples, without padding.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Damaged`] where a sample has no tokens or is not there.
    pub fn read(&self, samples: Range<u64>) -> Result<Vec<Vec<u32>>> {
        samples.map(|sample| self.sample(sample)).collect()
    }

    fn sample(&self, sample: u64) -> Result<Vec<u32>> {
        let damaged = |why: String| Error::Damaged { file: MASK.to_owned(), why };
        if sample >= self.samples {
            return Err(damaged(format!("sample {sample} is beyond its {} samples", self.samples)));
        }
        let first = sample * self.sequence_length as u64;
        let mut mask = vec![0; self.sequence_length];
        self.mask.read(first, &mut mask)?;
        let length = mask.iter().position(|real| *real == 0).unwrap_or(mask.len());
        if length == 0 || mask[length..].iter().any(|real| *real != 0) {
            return Err(damaged(format!("the tokens of sample {sample} are not at its beginning")));
        }
        let mut bytes = vec![0; 4 * length];
        self.tokens.read(first, &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Planner;

    fn make(folder: &Path, length: RowLength, positions: &Positions) -> Plan {
        let settings =
            PlanSettings { length, pack: false, split: true, max_samples: None, shard: Shard::WHOLE };
        let mut planner = Planner::new(settings.clone()).unwrap();
        let mut writer = PlanWriter::create(folder).unwrap();
        for (row, text) in [vec![1, 2, 3], vec![], vec![4], vec![5, 6]].iter().enumerate() {
            planner.push(row as u64, text);
            while let Some(sample) = planner.next_sample() {
                writer.write(&sample).unwrap();
            }
        }
        planner.finish();
        writer.finish(&settings, positions, planner.counts()).unwrap()
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Plan::load(folder.path()).unwrap(), None);
        let plan = make(folder.path(), RowLength::Longest(8), &Positions::All);
        assert_eq!((plan.samples, plan.tokens, plan.sequence_length), (3, 6, 3));
        assert_eq!(Plan::load(folder.path()).unwrap(), Some(plan.clone()));
        let reader = PlanReader::open(folder.path(), &plan).unwrap();
        assert_eq!(reader.read(0..3).unwrap(), [vec![1, 2, 3], vec![4], vec![5, 6]]);
        assert!(reader.read(2..4).is_err());
        let lines = fs::read_to_string(folder.path().join(SAMPLES)).unwrap();
        let second = lines.lines().nth(1).unwrap();
        assert_eq!(second, r#"{"sample":1,"tokens":1,"parts":[{"row":2,"start":0,"tokens":1}]}"#);
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["mask.npy", "plan.json", "samples.jsonl", "tokens.npy"]);
    }

    #[test]
    fn rows_of_a_fixed_length_are_padded_and_split() {
        let folder = tempfile::tempdir().unwrap();
        let positions = Positions::At(vec![1, -1]);
        let plan = make(folder.path(), RowLength::Exactly(2), &positions);
        assert_eq!((plan.samples, plan.sequence_length), (4, 2));
        let header = Header { dtype: DataType::I32, shape: vec![4, 2] };
        let chosen = ArrayFile::open(&folder.path().join(POSITIONS), &header).unwrap();
        let mut bytes = [0; 32];
        chosen.read(0, &mut bytes).unwrap();
        let numbers: Vec<i32> = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
        assert_eq!(numbers, [1, 1, -1, 0, -1, 0, 1, 1]);
    }

    #[test]
    fn a_damaged_mask_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let plan = make(folder.path(), RowLength::Exactly(3), &Positions::All);
        let path = folder.path().join(MASK);
        let mut bytes = fs::read(&path).unwrap();
        let start = bytes.len() - 9;
        bytes[start] = 0;
        fs::write(&path, bytes).unwrap();
        let error = PlanReader::open(folder.path(), &plan).unwrap().read(0..1).unwrap_err();
        assert!(error.to_string().starts_with("mask.npy: "), "{error}");
    }
}
