//! A job as its folder keeps it (`job.json`), and as the API shows it.

use std::{collections::BTreeMap, fs, io, path::Path, time::SystemTime};

use millm_extraction::{Facts, OutputFile};
use millm_kit::{Reason, ServiceError};
use millm_proto::{
    catalog::v1::ExtractionSettings,
    inspection::v1::{Extraction, ExtractionConfig, ExtractionFile, Replay, extraction::State},
};
use serde::{Deserialize, Serialize};

/// The record's file within the job's folder.
const RECORD: &str = "job.json";
/// The version of the record.
const VERSION: u32 = 1;
/// The largest record that is read.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobState {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    Interrupted,
}

impl JobState {
    /// Returns whether the job is over, for now or for good.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    fn to_proto(self) -> State {
        match self {
            Self::Queued => State::Queued,
            Self::Running => State::Running,
            Self::Succeeded => State::Succeeded,
            Self::Failed => State::Failed,
            Self::Cancelled => State::Cancelled,
            Self::Interrupted => State::Interrupted,
        }
    }
}

/// Everything that is kept of a job beside its output.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    version: u32,
    pub id: String,
    pub config: ConfigRecord,
    pub model_id: i64,
    pub model_handle: String,
    pub dataset_id: i64,
    pub dataset_handle: String,
    pub state: JobState,
    pub samples_done: u64,
    /// 0 until the plan is made.
    pub samples_total: u64,
    pub tokens_done: u64,
    pub batch_size: u32,
    pub disk_bytes: u64,
    /// Set when the job has succeeded.
    pub files: Vec<OutputFile>,
    pub error: Option<ErrorRecord>,
    pub create_time: SystemTime,
    pub start_time: Option<SystemTime>,
    pub end_time: Option<SystemTime>,
    /// The job that this one does again; empty for others.
    pub replay_of: String,
    pub replay: Option<ReplayRecord>,
    /// The model, the dataset and the machine when the job first ran. A resumed job must find them unchanged.
    pub facts: Option<Facts>,
}

/// What a job was asked to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConfigRecord {
    model: String,
    dataset: String,
    column: String,
    shard_index: u32,
    shard_count: u32,
    points: Vec<String>,
    layers: String,
    max_samples: u64,
    sequence_length: u32,
    batch_size: u32,
    dtype: i32,
    positions: String,
    pack: bool,
    split: bool,
    chat_template: bool,
    no_special_tokens: bool,
    format: i32,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ErrorRecord {
    reason: String,
    message: String,
    details: BTreeMap<String, String>,
}

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplayRecord {
    pub identical: bool,
    pub file: String,
    pub sample: u64,
    pub position: u64,
    pub message: String,
}

impl JobRecord {
    /// Returns the record of a job that waits for its turn.
    pub fn new(id: String, config: &ExtractionConfig) -> Self {
        Self {
            version: VERSION,
            id,
            config: ConfigRecord::from(config),
            model_id: 0,
            model_handle: String::new(),
            dataset_id: 0,
            dataset_handle: String::new(),
            state: JobState::Queued,
            samples_done: 0,
            samples_total: 0,
            tokens_done: 0,
            batch_size: 0,
            disk_bytes: 0,
            files: Vec::new(),
            error: None,
            create_time: SystemTime::now(),
            start_time: None,
            end_time: None,
            replay_of: String::new(),
            replay: None,
            facts: None,
        }
    }

    /// Reads the record of a folder.
    ///
    /// # Errors
    ///
    /// The system's error; `InvalidData` for a file that is no record.
    pub fn load(folder: &Path) -> io::Result<Self> {
        let path = folder.join(RECORD);
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let size = fs::metadata(&path)?.len();
        if size > MAX_RECORD_BYTES {
            return Err(invalid(format!("it has {size} bytes, and at most {MAX_RECORD_BYTES} are read")));
        }
        let record: Self = serde_json::from_slice(&fs::read(&path)?)?;
        let named = folder.file_name().and_then(|name| name.to_str());
        if record.version != VERSION || named != Some(record.id.as_str()) {
            return Err(invalid(format!("it is of version {} and job '{}'", record.version, record.id)));
        }
        Ok(record)
    }

    /// Writes the record into a folder: a reader sees the old content or the new.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        let path = folder.join(RECORD);
        let beside = path.with_extension("json.new");
        fs::write(&beside, serde_json::to_vec_pretty(self)?)?;
        fs::rename(beside, path)
    }

    /// Returns the job as the API shows it. What is known only while it runs is not set.
    pub fn to_proto(&self) -> Extraction {
        let file = |file: &OutputFile| ExtractionFile {
            name: file.name.clone(),
            size_bytes: file.size_bytes as i64,
            sha256: file.sha256.clone(),
        };
        Extraction {
            name: format!("extractions/{}", self.id),
            id: self.id.clone(),
            state: self.state.to_proto().into(),
            config: Some(ExtractionConfig::from(&self.config)),
            model_id: self.model_id,
            model_handle: self.model_handle.clone(),
            dataset_handle: self.dataset_handle.clone(),
            samples_done: self.samples_done,
            samples_total: self.samples_total,
            tokens_done: self.tokens_done,
            samples_per_second: 0.0,
            time_left: None,
            batch_size: self.batch_size,
            disk_bytes: self.disk_bytes as i64,
            files: self.files.iter().map(file).collect(),
            error: self.error.as_ref().map(|error| error.to_error().to_rpc()),
            create_time: Some(self.create_time.into()),
            start_time: self.start_time.map(Into::into),
            end_time: self.end_time.map(Into::into),
            replay_of: match self.replay_of.as_str() {
                "" => String::new(),
                id => format!("extractions/{id}"),
            },
            replay: self.replay.as_ref().map(|replay| Replay {
                identical: replay.identical,
                file: replay.file.clone(),
                sample: replay.sample,
                position: replay.position as u32,
                message: replay.message.clone(),
            }),
        }
    }
}

impl From<&ExtractionConfig> for ConfigRecord {
    fn from(config: &ExtractionConfig) -> Self {
        let config = config.clone();
        let settings = config.settings.unwrap_or_default();
        Self {
            model: config.model,
            dataset: config.dataset,
            column: config.column,
            shard_index: config.shard_index,
            shard_count: config.shard_count,
            points: settings.points,
            layers: settings.layers,
            max_samples: settings.max_samples,
            sequence_length: settings.sequence_length,
            batch_size: settings.batch_size,
            dtype: settings.dtype,
            positions: settings.positions,
            pack: settings.pack,
            split: settings.split,
            chat_template: settings.chat_template,
            no_special_tokens: settings.no_special_tokens,
            format: settings.format,
        }
    }
}

impl From<&ConfigRecord> for ExtractionConfig {
    fn from(record: &ConfigRecord) -> Self {
        let record = record.clone();
        let settings = ExtractionSettings {
            points: record.points,
            layers: record.layers,
            max_samples: record.max_samples,
            sequence_length: record.sequence_length,
            batch_size: record.batch_size,
            dtype: record.dtype,
            positions: record.positions,
            pack: record.pack,
            split: record.split,
            chat_template: record.chat_template,
            no_special_tokens: record.no_special_tokens,
            format: record.format,
        };
        Self {
            model: record.model,
            dataset: record.dataset,
            column: record.column,
            settings: Some(settings),
            shard_index: record.shard_index,
            shard_count: record.shard_count,
        }
    }
}

impl From<&ServiceError> for ErrorRecord {
    fn from(error: &ServiceError) -> Self {
        Self {
            reason: error.reason.name().to_owned(),
            message: error.message.clone(),
            details: error.details.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }
}

impl ErrorRecord {
    fn to_error(&self) -> ServiceError {
        let reason = Reason::from_name(&self.reason).unwrap_or(Reason::ExtractionFailed);
        let details = self.details.iter();
        details.fold(ServiceError::new(reason, self.message.clone()), |error, (key, value)| {
            error.with(key, value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ExtractionConfig {
        ExtractionConfig {
            model: "tiny".into(),
            dataset: "stories".into(),
            column: "text".into(),
            settings: Some(ExtractionSettings {
                points: vec!["residual".into(), "mlp.3".into()],
                layers: "0,5-10".into(),
                max_samples: 7,
                sequence_length: 128,
                batch_size: 4,
                dtype: 2,
                positions: "last".into(),
                pack: true,
                split: true,
                chat_template: true,
                no_special_tokens: true,
                format: 1,
            }),
            shard_index: 1,
            shard_count: 3,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("one");
        fs::create_dir(&folder).unwrap();
        let mut record = JobRecord::new("one".into(), &config());
        let error = ServiceError::insufficient_disk(2_000_000_000, 1_000_000_000);
        record.error = Some(ErrorRecord::from(&error));
        record.state = JobState::Failed;
        record.replay_of = "another".into();
        record.save(&folder).unwrap();
        let read = JobRecord::load(&folder).unwrap();
        let (mut shown, mut written) = (read.to_proto(), record.to_proto());
        // The details of an error have no order, so their bytes differ.
        assert_eq!(ServiceError::from_rpc(&shown.error.take().unwrap()), error);
        assert!(written.error.take().is_some());
        assert_eq!(shown, written);
        assert_eq!(shown.config, Some(config()));
        assert_eq!(
            (shown.name.as_str(), shown.replay_of.as_str()),
            ("extractions/one", "extractions/another")
        );
    }

    #[test]
    fn files_that_are_no_record_are_refused() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(JobRecord::load(root.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
        for text in ["", "{}", "[]"] {
            fs::write(root.path().join(RECORD), text).unwrap();
            assert!(JobRecord::load(root.path()).is_err(), "{text}");
        }
        // A record of another folder.
        JobRecord::new("other".into(), &config()).save(root.path()).unwrap();
        assert_eq!(JobRecord::load(root.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
