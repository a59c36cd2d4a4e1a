//! Extractions: what starts one, how far one is, and what came of it.

use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::ExtractionSettings as WireSettings,
    inspection::v1::{self as inspection, ExtractionConfig, extraction::State},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    settings::{ExtractionSettings, SettingsChoice},
    whole_seconds,
};
use crate::{Error, percent, some, time};

/// The body of `POST /api/models/{id}/extract` and `POST /api/models/{id}/extract/estimate`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ExtractionRequest {
    /// The dataset's name or id.
    #[schema(required, value_type = String, min_length = 1)]
    pub dataset: Option<String>,
    /// The column to read; the dataset's own unless given.
    pub column: Option<String>,
    /// A template's name or id. Its settings count where `settings` has none.
    pub template: Option<String>,
    /// What to read, and how.
    pub settings: Option<SettingsChoice>,
    /// Reads a share of the samples, for several jobs that divide a dataset.
    pub shard: Option<Shard>,
}

/// A job's share of a dataset: every `count`-th sample, from `index` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shard {
    /// The job's number, from 0.
    pub index: u32,
    /// The number of jobs.
    #[schema(minimum = 1)]
    pub count: u32,
}

impl ExtractionRequest {
    /// Returns the configuration of a job that reads `model`; `template` has the settings of the named template.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT of `dataset` when it is missing or empty, and of `shard.index` unless it is below the count.
    pub fn into_config(
        self,
        model: String,
        template: WireSettings,
    ) -> Result<ExtractionConfig, ServiceError> {
        let dataset = self.dataset.filter(|name| !name.is_empty());
        let shard = self.shard.unwrap_or(Shard { index: 0, count: 0 });
        if self.shard.is_some() && shard.index >= shard.count {
            let why = format!("must be below the count {}, found {}", shard.count, shard.index);
            return Err(ServiceError::invalid_argument("shard.index", why));
        }
        Ok(ExtractionConfig {
            model,
            dataset: dataset.ok_or_else(|| ServiceError::invalid_argument("dataset", "must be given"))?,
            column: self.column.unwrap_or_default(),
            settings: Some(self.settings.unwrap_or_default().over(template)),
            shard_index: shard.index,
            shard_count: shard.count,
        })
    }
}

/// The query of `GET /api/extractions`.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct ExtractionsQuery {
    /// Only extractions of this model: its name or id.
    pub model: String,
}

/// An extraction.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Extraction {
    /// Unique.
    pub id: String,
    /// What goes on with it.
    pub state: ExtractionState,
    /// The model.
    pub model_id: i64,
    /// The model's name.
    pub model: String,
    /// The dataset's name.
    pub dataset: String,
    /// The column that is read; null is the dataset's own.
    pub column: Option<String>,
    /// What is read, and how.
    pub settings: ExtractionSettings,
    /// The job's share of the dataset; null is all of it.
    pub shard: Option<Shard>,
    /// 0 to 100.
    pub progress: f64,
    /// Rows that are written.
    pub samples_done: u64,
    /// Rows of the files.
    pub samples_total: u64,
    /// Tokens that were read.
    pub tokens_done: u64,
    /// Null while unknown.
    pub samples_per_second: Option<f64>,
    /// Null while unknown.
    pub seconds_left: Option<i64>,
    /// Rows that are computed at once.
    pub batch_size: u32,
    /// Of all files so far.
    pub disk_bytes: i64,
    /// Its files, once it is over.
    pub files: Vec<ExtractionFile>,
    /// Why it failed, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// Why it failed, for programs: a reason of the error table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<&'static str>,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub ended_at: Option<String>,
    /// Of a replay: the extraction that it does again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
    /// Of a replay: what came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

/// What goes on with an extraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExtractionState {
    /// Not known.
    Unknown,
    /// Waits for its turn.
    Queued,
    /// Reads and writes.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended by its user.
    Cancelled,
    /// Ended with the server, in its middle.
    Interrupted,
}

impl ExtractionState {
    /// Returns the word, as JSON has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<State> for ExtractionState {
    fn from(state: State) -> Self {
        match state {
            State::Unspecified => Self::Unknown,
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
            State::Interrupted => Self::Interrupted,
        }
    }
}

/// Returns whether an extraction has ended.
pub const fn is_over(state: State) -> bool {
    matches!(state, State::Succeeded | State::Failed | State::Cancelled | State::Interrupted)
}

/// Returns why an extraction that is over has not succeeded.
pub fn failure(e: &inspection::Extraction) -> Option<ServiceError> {
    let otherwise = match e.state() {
        State::Failed => ServiceError::extraction_failed("for an unknown reason"),
        State::Interrupted => ServiceError::extraction_failed("the server stopped before its end"),
        State::Cancelled => ServiceError::cancelled(),
        State::Unspecified | State::Queued | State::Running | State::Succeeded => return None,
    };
    Some(e.error.as_ref().map_or(otherwise, ServiceError::from_rpc))
}

/// A file of an extraction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ExtractionFile {
    /// `resid_post.layer3.npy`.
    pub name: String,
    /// Its size.
    pub size_bytes: i64,
    /// 64 hex digits.
    pub sha256: String,
}

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Replay {
    /// Whether every file is the same, to the bit.
    pub identical: bool,
    /// The file with the first difference.
    pub file: Option<String>,
    /// The sample with the first difference.
    pub sample: Option<u64>,
    /// The position of the first difference.
    pub position: Option<u32>,
    /// For people.
    pub message: String,
}

impl From<&inspection::Replay> for Replay {
    fn from(replay: &inspection::Replay) -> Self {
        let differs = !replay.identical;
        Self {
            identical: replay.identical,
            file: some(&replay.file).filter(|_| differs),
            sample: differs.then_some(replay.sample),
            position: differs.then_some(replay.position),
            message: replay.message.clone(),
        }
    }
}

impl From<&inspection::Extraction> for Extraction {
    fn from(e: &inspection::Extraction) -> Self {
        let config = e.config.clone().unwrap_or_default();
        let error = failure(e).filter(|_| e.state() != State::Cancelled);
        let file = |file: &inspection::ExtractionFile| ExtractionFile {
            name: file.name.clone(),
            size_bytes: file.size_bytes,
            sha256: file.sha256.clone(),
        };
        let shard = Shard { index: config.shard_index, count: config.shard_count };
        let progress = ExtractionProgress::from(e);
        Self {
            id: e.id.clone(),
            state: progress.state,
            model_id: e.model_id,
            model: e.model_handle.clone(),
            dataset: e.dataset_handle.clone(),
            column: some(&config.column),
            settings: (&config.settings.unwrap_or_default()).into(),
            shard: (shard.count > 0).then_some(shard),
            progress: progress.progress,
            samples_done: e.samples_done,
            samples_total: e.samples_total,
            tokens_done: e.tokens_done,
            samples_per_second: progress.samples_per_second,
            seconds_left: progress.seconds_left,
            batch_size: e.batch_size,
            disk_bytes: e.disk_bytes,
            files: e.files.iter().map(file).collect(),
            error_message: error.as_ref().map(|e| e.message.clone()),
            error_code: error.as_ref().map(|e| e.reason.name()),
            created_at: time(e.create_time.as_ref()),
            started_at: time(e.start_time.as_ref()),
            ended_at: time(e.end_time.as_ref()),
            replay_of: some(&e.replay_of),
            replay: e.replay.as_ref().map(Replay::from),
        }
    }
}

/// How far an extraction is: an event of `/api/events`, a line of `millm extract --json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ExtractionProgress {
    /// The extraction.
    pub extraction_id: String,
    /// The model.
    pub model_id: i64,
    /// `queued` or `running`.
    pub state: ExtractionState,
    /// 0 to 100.
    pub progress: f64,
    /// Rows that are written.
    pub samples_done: u64,
    /// Rows of the files.
    pub samples_total: u64,
    /// Tokens that were read.
    pub tokens_done: u64,
    /// Null while unknown.
    pub samples_per_second: Option<f64>,
    /// Null while unknown.
    pub seconds_left: Option<i64>,
    /// Rows that are computed at once.
    pub batch_size: u32,
    /// Of all files so far.
    pub disk_bytes: i64,
}

impl From<&inspection::Extraction> for ExtractionProgress {
    fn from(e: &inspection::Extraction) -> Self {
        let rate = e.samples_per_second;
        Self {
            extraction_id: e.id.clone(),
            model_id: e.model_id,
            state: e.state().into(),
            progress: percent(fraction(e)),
            samples_done: e.samples_done,
            samples_total: e.samples_total,
            tokens_done: e.tokens_done,
            samples_per_second: (rate.is_finite() && rate > 0.0).then_some(rate),
            seconds_left: e.time_left.as_ref().map(whole_seconds),
            batch_size: e.batch_size,
            disk_bytes: e.disk_bytes,
        }
    }
}

/// Returns the share of an extraction's samples that are written: 0 to 1.
pub fn fraction(e: &inspection::Extraction) -> f64 {
    if e.state() == State::Succeeded {
        return 1.0;
    }
    (e.samples_done as f64 / e.samples_total.max(1) as f64).min(1.0)
}

/// An extraction that has ended well.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ExtractionCompleted {
    /// The extraction.
    pub extraction_id: String,
    /// The model.
    pub model_id: i64,
    /// The extraction with its files.
    pub extraction: Box<Extraction>,
}

/// An extraction that has failed, or that was cancelled.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ExtractionFailed {
    /// The extraction.
    pub extraction_id: String,
    /// The model.
    pub model_id: i64,
    /// Why.
    pub error: Error,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_become_configurations() {
        let read = |value: serde_json::Value| {
            let request: ExtractionRequest = serde_json::from_value(value).unwrap();
            request.into_config("tiny".into(), WireSettings { max_samples: 9, ..WireSettings::default() })
        };
        let config = read(json!({"dataset": "d", "settings": {"points": ["mlp"]}})).unwrap();
        assert_eq!((config.model.as_str(), config.dataset.as_str()), ("tiny", "d"));
        assert_eq!(config.settings.unwrap().max_samples, 9);
        assert_eq!((config.shard_index, config.shard_count), (0, 0));
        let config = read(json!({"dataset": "d", "shard": {"index": 2, "count": 3}})).unwrap();
        assert_eq!((config.shard_index, config.shard_count), (2, 3));
        for (bad, field) in [
            (json!({}), "dataset"),
            (json!({"dataset": ""}), "dataset"),
            (json!({"dataset": "d", "shard": {"index": 3, "count": 3}}), "shard.index"),
            (json!({"dataset": "d", "shard": {"index": 0, "count": 0}}), "shard.index"),
        ] {
            assert_eq!(read(bad).unwrap_err().details["field"], field);
        }
    }

    #[test]
    fn what_is_unknown_is_null() {
        let mut extraction = inspection::Extraction {
            samples_done: 1,
            samples_total: 3,
            samples_per_second: f64::NAN,
            ..Default::default()
        };
        extraction.set_state(State::Running);
        let shown = Extraction::from(&extraction);
        assert_eq!((shown.progress, shown.samples_per_second), (33.3, None));
        assert_eq!((shown.shard, shown.seconds_left, shown.error_code), (None, None, None));
        extraction.set_state(State::Interrupted);
        assert_eq!(Extraction::from(&extraction).error_code, Some("EXTRACTION_FAILED"));
        extraction.set_state(State::Cancelled);
        assert_eq!(Extraction::from(&extraction).error_code, None);
        assert!(failure(&extraction).is_some());
        let empty = inspection::Extraction { state: State::Succeeded.into(), ..Default::default() };
        let shown = Extraction::from(&empty);
        assert_eq!((shown.state, shown.progress), (ExtractionState::Succeeded, 100.0));
    }

    #[test]
    fn words_are_those_of_json() {
        for state in (0..=6).map(|n| ExtractionState::from(State::try_from(n).unwrap())) {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
