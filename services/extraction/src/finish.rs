//! The end of an extraction: arrays get their final names, statistics and checksums are written, and the metadata last.
//!
//! Each step can be done again, so a process that is killed here loses nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{Checkpoint, JOURNAL},
    error::{At as _, Error, Result},
    layout::Layout,
    metadata::{Facts, METADATA, Metadata, OutputFile, hash_file},
    npy::complete,
    plan::Positions,
    plan_file::{MASK, PLAN, POSITIONS, Plan, SAMPLES, TOKENS, write_json, write_whole},
    statistics::{PointStatistics, report},
};

/// Statistics for people and programs.
pub const STATISTICS: &str = "statistics.json";
/// The sums behind the statistics, which the statistics of merged shards are made from (postcard).
pub const SUMS: &str = "statistics.sums";

/// The content of [`SUMS`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sums {
    version: u32,
    /// The names and statistics of the points.
    pub points: Vec<(String, PointStatistics)>,
}

impl Sums {
    const VERSION: u32 = 1;

    /// Reads the file of a folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(SUMS);
        let bytes = fs::read(&path).at(&path)?;
        let sums: Self =
            postcard::from_bytes(&bytes).map_err(|error| Error::damaged(&path, error.to_string()))?;
        if sums.version != Self::VERSION {
            let why = format!("it has version {}, and this program knows {}", sums.version, Self::VERSION);
            return Err(Error::damaged(&path, why));
        }
        Ok(sums)
    }
}

/// Completes the files of a job whose samples are all written. `progress` receives the bytes of each piece that is
/// hashed, and returns whether to go on.
///
/// # Errors
/// [`Error::Damaged`] where samples or files are missing, [`Error::Cancelled`], [`Error::DiskFull`] or [`Error::Io`].
pub fn finish(
    folder: &Path,
    plan: &Plan,
    layout: &Layout,
    checkpoint: &Checkpoint,
    facts: Facts,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Metadata> {
    let done = checkpoint.done().samples;
    if done != layout.samples || plan.samples != layout.samples {
        let why = format!("{done} samples are written, and the plan has {}", plan.samples);
        return Err(Error::Damaged { file: JOURNAL.to_owned(), why });
    }
    for point in &layout.points {
        complete(&folder.join(point.file_name()))?;
    }
    let metadata = describe(folder, plan, layout, checkpoint.statistics(), facts, progress)?;
    for name in [JOURNAL, PLAN] {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(&path, error)),
            _ => {}
        }
    }
    Ok(metadata)
}

/// Writes statistics, checksums and metadata of a folder whose arrays are complete.
pub(crate) fn describe(
    folder: &Path,
    plan: &Plan,
    layout: &Layout,
    statistics: &[PointStatistics],
    facts: Facts,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Metadata> {
    let names = layout.points.iter().map(|point| point.hook.name());
    let named = names.clone().zip(statistics);
    write_json(&folder.join(STATISTICS), &report(named))?;
    let points = names.zip(statistics.iter().cloned()).collect();
    let sums = Sums { version: Sums::VERSION, points };
    let path = folder.join(SUMS);
    let sums = postcard::to_stdvec(&sums).map_err(io::Error::other).at(&path)?;
    write_whole(&path, &sums)?;
    let mut hashes = BTreeMap::<String, OutputFile>::new();
    for name in output_files(layout) {
        let file = hash_file(&folder.join(&name), progress)?;
        hashes.insert(name, file);
    }
    let metadata = Metadata::new(facts, plan, layout, hashes)?;
    write_json(&folder.join(METADATA), &metadata)?;
    // Names survive a power cut only when their folder does.
    File::open(folder).and_then(|folder| folder.sync_all()).at(folder)?;
    Ok(metadata)
}

/// Returns the names of all files of a complete folder but the metadata.
pub fn output_files(layout: &Layout) -> Vec<String> {
    let mut names: Vec<String> = layout.points.iter().map(super::layout::Point::file_name).collect();
    names.extend([TOKENS, MASK, SAMPLES, STATISTICS, SUMS].map(str::to_owned));
    if layout.positions != Positions::All {
        names.push(POSITIONS.to_owned());
    }
    names
}
