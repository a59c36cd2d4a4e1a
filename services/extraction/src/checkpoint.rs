//! The checkpoint of an extraction: a journal that says which samples are in the arrays, with their statistics.
//!
//! Records are only appended, each after the activations that it tells of. A killed process loses at most the record that
//! it was writing: the journal is cut there, and those samples are computed again. After a power cut the system may have
//! written the journal, and not the arrays. So from time to time the arrays are synced, and a record says so. When the
//! system has started anew since the last record, the journal is cut behind the last such record.

use std::{
    fs::{File, OpenOptions},
    io::{BufReader, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{At as _, Error, Result},
    layout::Layout,
    npy::Disk,
    statistics::PointStatistics,
};

/// The journal's file.
pub(crate) const JOURNAL: &str = "journal";
/// Bytes of a record's length and checksum.
const FRAME: u64 = 8;
/// The longest record: the statistics of some thousand points with a vocabulary's size each.
const MAX_RECORD: u64 = 1 << 30;

/// A record as it is read.
#[derive(Debug, Deserialize)]
enum Record {
    /// A process begins to write.
    Begin {
        /// Of the layout.
        fingerprint: String,
        /// Names the system's start; empty where the system does not tell.
        boot: String,
    },
    /// Some samples are written.
    Batch {
        /// The first sample's index within the job.
        first: u64,
        samples: u64,
        tokens: u64,
        /// One for each point.
        statistics: Vec<PointStatistics>,
    },
    /// Everything so far is on the disk.
    Synced,
}

/// The same as it is written.
#[derive(Debug, Serialize)]
enum NewRecord<'a> {
    Begin { fingerprint: &'a str, boot: &'a str },
    Batch { first: u64, samples: u64, tokens: u64, statistics: &'a [PointStatistics] },
    Synced,
}

/// What a job has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Samples in the arrays, from the first on.
    pub samples: u64,
    /// Their tokens.
    pub tokens: u64,
}

/// The journal of a job, open for more records.
#[derive(Debug)]
pub struct Checkpoint {
    file: File,
    path: PathBuf,
    length: u64,
    done: Done,
    statistics: Vec<PointStatistics>,
    disk: Arc<dyn Disk>,
}

impl Checkpoint {
    /// Opens the journal of a folder, or begins one.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the journal is another layout's; [`Error::DiskFull`] or [`Error::Io`].
    pub fn open(folder: &Path, layout: &Layout, disk: Arc<dyn Disk>) -> Result<Self> {
        Self::open_at(folder, layout, disk, boot_id())
    }

    fn open_at(folder: &Path, layout: &Layout, disk: Arc<dyn Disk>, boot: String) -> Result<Self> {
        let path = folder.join(JOURNAL);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path).at(&path)?;
        let fingerprint = layout.fingerprint();
        let length = valid_length(&file, &path, &fingerprint, &boot)?;
        file.set_len(length).at(&path)?;
        let statistics = layout.points.iter().map(|point| PointStatistics::new(point.dimensions())).collect();
        let mut checkpoint = Self { file, path, length, done: Done::default(), statistics, disk };
        checkpoint.read_batches()?;
        checkpoint.append(&NewRecord::Begin { fingerprint: &fingerprint, boot: &boot })?;
        Ok(checkpoint)
    }

    /// Returns what is done.
    pub fn done(&self) -> Done {
        self.done
    }

    /// Returns the statistics of everything that is done, one for each point.
    pub fn statistics(&self) -> &[PointStatistics] {
        &self.statistics
    }

    /// Notes that the next samples are in the arrays.
    ///
    /// # Errors
    /// [`Error::DiskFull`] or [`Error::Io`]. Then the samples are not noted.
    pub fn batch(&mut self, done: Done, statistics: &mut [PointStatistics]) -> Result<()> {
        statistics.iter_mut().for_each(PointStatistics::settle);
        let first = self.done.samples;
        let Done { samples, tokens } = done;
        self.append(&NewRecord::Batch { first, samples, tokens, statistics })?;
        self.add(done, statistics);
        Ok(())
    }

    /// Notes that the arrays were synced, and syncs the journal.
    ///
    /// # Errors
    /// [`Error::DiskFull`] or [`Error::Io`].
    pub fn synced(&mut self) -> Result<()> {
        self.append(&NewRecord::Synced)?;
        self.file.sync_data().at(&self.path)
    }

    fn add(&mut self, done: Done, statistics: &[PointStatistics]) {
        self.done.samples += done.samples;
        self.done.tokens += done.tokens;
        for (sum, more) in self.statistics.iter_mut().zip(statistics) {
            sum.merge(more);
        }
    }

    fn append(&mut self, record: &NewRecord<'_>) -> Result<()> {
        let encoded = postcard::to_stdvec(record)
            .map_err(|error| Error::damaged(&self.path, format!("a record cannot be written: {error}")))?;
        if encoded.len() as u64 > MAX_RECORD {
            let why = format!("a record has {} bytes, and at most {MAX_RECORD} are possible", encoded.len());
            return Err(Error::damaged(&self.path, why));
        }
        let mut frame = Vec::with_capacity(encoded.len() + FRAME as usize);
        frame.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        frame.extend_from_slice(&crc32fast::hash(&encoded).to_le_bytes());
        frame.extend_from_slice(&encoded);
        if let Err(error) = self.disk.write_all_at(&self.file, &frame, self.length) {
            // A part of a record must not stay: the next one would follow it. A reader would cut it off too.
            let _ = self.file.set_len(self.length);
            return Err(Error::io(&self.path, error));
        }
        self.length += frame.len() as u64;
        Ok(())
    }

    /// Adds up the batches of the valid part.
    fn read_batches(&mut self) -> Result<()> {
        let (file, path) = (self.file.try_clone().at(&self.path)?, self.path.clone());
        let mut records = Records::new(&file, &path)?;
        while let Some((record, _)) = records.read_next()? {
            if let Record::Batch { samples, tokens, statistics, .. } = record {
                self.add(Done { samples, tokens }, &statistics);
            }
        }
        Ok(())
    }
}

/// Returns the bytes of the records that count.
fn valid_length(file: &File, path: &Path, fingerprint: &str, boot: &str) -> Result<u64> {
    let mut records = Records::new(file, path)?;
    let (mut length, mut on_disk, mut samples) = (0, 0, 0);
    let mut last_boot = String::new();
    while let Some((record, end)) = records.read_next()? {
        match record {
            Record::Begin { fingerprint: found, boot } => {
                if found != fingerprint {
                    return Err(Error::damaged(path, "it belongs to other settings or another plan"));
                }
                if length == 0 {
                    on_disk = end;
                }
                last_boot = boot;
            }
            // Before the first record of a process nothing can have been written.
            _ if length == 0 => break,
            Record::Batch { first, samples: more, .. } => {
                if first != samples {
                    break;
                }
                samples += more;
            }
            Record::Synced => on_disk = end,
        }
        length = end;
    }
    Ok(if last_boot == boot { length } else { on_disk })
}

/// Reads records up to the first that is incomplete or damaged.
struct Records<'a> {
    reader: BufReader<&'a File>,
    path: &'a Path,
    /// Bytes of the file, and of the records that were read.
    size: u64,
    read: u64,
}

impl<'a> Records<'a> {
    fn new(file: &'a File, path: &'a Path) -> Result<Self> {
        use std::io::Seek as _;
        let mut reader = BufReader::new(file);
        reader.rewind().at(path)?;
        Ok(Self { reader, path, size: file.metadata().at(path)?.len(), read: 0 })
    }

    /// Returns the next record and the bytes up to its end.
    fn read_next(&mut self) -> Result<Option<(Record, u64)>> {
        let rest = self.size.saturating_sub(self.read);
        if rest < FRAME {
            return Ok(None);
        }
        let mut frame = [0; FRAME as usize];
        self.reader.read_exact(&mut frame).at(self.path)?;
        let [length, checksum] = [0, 4].map(|at| {
            let bytes = [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]];
            u32::from_le_bytes(bytes)
        });
        let length = u64::from(length);
        if length > MAX_RECORD || length > rest - FRAME {
            return Ok(None);
        }
        let mut encoded = vec![0; length as usize];
        self.reader.read_exact(&mut encoded).at(self.path)?;
        if crc32fast::hash(&encoded) != checksum {
            return Ok(None);
        }
        let Ok(record) = postcard::from_bytes(&encoded) else { return Ok(None) };
        self.read += FRAME + length;
        Ok(Some((record, self.read)))
    }
}

/// Returns a name of the system's present start, where the system tells.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use millm_model::hooks::{Hook, HookPoint};

    use super::*;
    use crate::{
        layout::Point,
        npy::{DataType, RealDisk},
        plan::{Positions, Shard},
        statistics::TokenPlace,
    };

    fn layout() -> Layout {
        Layout {
            points: vec![Point { hook: Hook::at(HookPoint::ResidPost, 0), shape: vec![2] }],
            samples: 9,
            sequence_length: 4,
            positions: Positions::All,
            dtype: DataType::F32,
            shard: Shard::WHOLE,
        }
    }

    fn open(folder: &Path, boot: &str) -> Result<Checkpoint> {
        Checkpoint::open_at(folder, &layout(), Arc::new(RealDisk), boot.to_owned())
    }

    /// Notes one sample.
    fn note(checkpoint: &mut Checkpoint, sample: u64) {
        let mut statistics = [PointStatistics::new(2)];
        statistics[0].add(&[sample as f32, 0.5], |_| TokenPlace { sample, position: 0, token: 1 });
        checkpoint.batch(Done { samples: 1, tokens: 3 }, &mut statistics).unwrap();
    }

    #[test]
    fn a_journal_that_is_cut_anywhere_has_the_batches_before() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join(JOURNAL);
        let mut checkpoint = open(folder.path(), "one").unwrap();
        let mut ends = vec![(checkpoint.length, checkpoint.statistics().to_vec())];
        for sample in 0..4 {
            note(&mut checkpoint, sample);
            ends.push((checkpoint.length, checkpoint.statistics().to_vec()));
        }
        let whole = fs::read(&journal).unwrap();
        for length in 0..=whole.len() {
            fs::write(&journal, &whole[..length]).unwrap();
            let checkpoint = open(folder.path(), "one").unwrap();
            let done = ends.iter().skip(1).filter(|(end, _)| *end <= length as u64).count();
            assert_eq!(checkpoint.done(), Done { samples: done as u64, tokens: 3 * done as u64 }, "{length}");
            assert_eq!(checkpoint.statistics(), ends[done].1, "{length}");
        }
    }

    #[test]
    fn damage_ends_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join(JOURNAL);
        let mut checkpoint = open(folder.path(), "one").unwrap();
        let begin = checkpoint.length as usize;
        (0..3).for_each(|sample| note(&mut checkpoint, sample));
        let whole = fs::read(&journal).unwrap();
        for at in (begin..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            fs::write(&journal, &damaged).unwrap();
            assert!(open(folder.path(), "one").unwrap().done().samples < 3, "{at}");
        }
    }

    #[test]
    fn records_go_on_after_a_cut() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = open(folder.path(), "one").unwrap();
        (0..3).for_each(|sample| note(&mut checkpoint, sample));
        let all = checkpoint.statistics().to_vec();
        let journal = folder.path().join(JOURNAL);
        let bytes = fs::read(&journal).unwrap();
        fs::write(&journal, &bytes[..bytes.len() - 1]).unwrap();
        let mut checkpoint = open(folder.path(), "one").unwrap();
        assert_eq!(checkpoint.done().samples, 2);
        note(&mut checkpoint, 2);
        assert_eq!(open(folder.path(), "one").unwrap().statistics(), all);
    }

    #[test]
    fn after_a_restart_of_the_system_only_synced_batches_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = open(folder.path(), "one").unwrap();
        note(&mut checkpoint, 0);
        checkpoint.synced().unwrap();
        note(&mut checkpoint, 1);
        drop(checkpoint);
        assert_eq!(open(folder.path(), "one").unwrap().done().samples, 2);
        assert_eq!(open(folder.path(), "two").unwrap().done().samples, 1);
        let mut checkpoint = open(folder.path(), "two").unwrap();
        note(&mut checkpoint, 1);
        assert_eq!(open(folder.path(), "two").unwrap().done().samples, 2);
        assert_eq!(open(folder.path(), "three").unwrap().done().samples, 1);
    }

    #[test]
    fn a_journal_of_another_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), "one").unwrap();
        let other = Layout { samples: 10, ..layout() };
        let error = Checkpoint::open(folder.path(), &other, Arc::new(RealDisk)).unwrap_err();
        assert!(error.to_string().contains("another plan"), "{error}");
    }
}
