//! Datasets: what registers one, and what is known of one.

use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::{self as catalog, dataset::State, dataset_column::Kind},
    downloader::v1::{
        self as downloader, AddDatasetRequest, HubDataset, ReadDatasetRowsRequest, add_dataset_request,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::{Source, some, time};

/// The body of `POST /api/datasets`: files of the server's machine, or a dataset of the hub.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct NewDataset {
    /// `local` when only a `local_path` is given, `huggingface` otherwise.
    pub source: Option<Source>,
    /// A file, a folder, or a pattern such as `/data/*.parquet`, on the server, with the source `local`.
    pub local_path: Option<String>,
    /// The dataset's repository, with the source `huggingface`.
    #[schema(example = "owner/name")]
    pub repo_id: Option<String>,
    /// A branch, tag or commit; `main` unless given.
    pub revision: Option<String>,
    /// The configuration; the only one, or `default`, unless given.
    pub config: Option<String>,
    /// `train` unless given.
    pub split: Option<String>,
    /// A Hugging Face token for this download alone.
    pub hf_token: Option<String>,
    /// The dataset's name; made from the file's or repository's name unless given.
    pub name: Option<String>,
    /// The column to read; found unless given.
    pub column: Option<String>,
}

impl TryFrom<NewDataset> for AddDatasetRequest {
    type Error = ServiceError;

    /// # Errors
    ///
    /// INVALID_ARGUMENT of `repo_id` or `local_path`, whichever the source needs.
    fn try_from(dataset: NewDataset) -> Result<Self, ServiceError> {
        let missing = |field| ServiceError::invalid_argument(field, "must be given");
        let otherwise = if dataset.local_path.is_some() { Source::Local } else { Source::Huggingface };
        let source = match dataset.source.unwrap_or(otherwise) {
            Source::Huggingface => add_dataset_request::Source::Hub(HubDataset {
                repo_id: dataset.repo_id.ok_or_else(|| missing("repo_id"))?,
                revision: dataset.revision.unwrap_or_default(),
                hf_token: dataset.hf_token.unwrap_or_default(),
                config: dataset.config.unwrap_or_default(),
                split: dataset.split.unwrap_or_default(),
            }),
            Source::Local => add_dataset_request::Source::LocalPath(
                dataset.local_path.ok_or_else(|| missing("local_path"))?,
            ),
        };
        Ok(Self {
            source: Some(source),
            handle: dataset.name.unwrap_or_default(),
            column: dataset.column.unwrap_or_default(),
        })
    }
}

/// A dataset.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Dataset {
    /// Unique and never used again.
    pub id: i64,
    /// The unique name that people use.
    pub name: String,
    /// Where its files came from.
    pub source: Source,
    /// `owner/name` of the hub.
    pub repo_id: Option<String>,
    /// The branch, tag or commit that was asked for.
    pub revision: Option<String>,
    /// The commit that the revision was at: 40 hex digits.
    pub commit: Option<String>,
    /// The hub's configuration.
    pub config: Option<String>,
    /// The hub's split.
    pub split: Option<String>,
    /// The path that was registered: a file, a folder or a pattern.
    pub local_path: Option<String>,
    /// Whether it can be read.
    pub state: DatasetState,
    /// How its files are read; null while unknown.
    pub format: Option<DatasetFormat>,
    /// Of all files; 0 while unknown.
    pub rows: i64,
    /// Of all files.
    pub size_bytes: i64,
    /// Its columns.
    pub columns: Vec<DatasetColumn>,
    /// The column that is read unless a caller names another.
    pub column: Option<String>,
    /// Its files.
    pub files: Vec<DatasetFile>,
    /// Why it cannot be read, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// Why it cannot be read, for programs: a reason of the error table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<&'static str>,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// RFC 3339.
    pub updated_at: Option<String>,
}

/// Whether a dataset can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetState {
    /// Not known.
    Unknown,
    /// Its files are being fetched and read.
    Pending,
    /// It can be read.
    Ready,
    /// Fetching or reading its files failed.
    Error,
}

impl DatasetState {
    /// Returns the word, as JSON has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Error => "error",
        }
    }
}

impl From<State> for DatasetState {
    fn from(state: State) -> Self {
        match state {
            State::Unspecified => Self::Unknown,
            State::Pending => Self::Pending,
            State::Ready => Self::Ready,
            State::Error => Self::Error,
        }
    }
}

/// How the files of a dataset are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetFormat {
    /// A JSON object on each line.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
    /// A text on each line.
    Text,
    /// Apache Parquet.
    Parquet,
}

impl DatasetFormat {
    /// Returns the word, as JSON has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Text => "text",
            Self::Parquet => "parquet",
        }
    }

    const fn of(format: catalog::DatasetFormat) -> Option<Self> {
        match format {
            catalog::DatasetFormat::Unspecified => None,
            catalog::DatasetFormat::Jsonl => Some(Self::Jsonl),
            catalog::DatasetFormat::Csv => Some(Self::Csv),
            catalog::DatasetFormat::Text => Some(Self::Text),
            catalog::DatasetFormat::Parquet => Some(Self::Parquet),
        }
    }
}

/// A column of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DatasetColumn {
    /// As the files have it.
    pub name: String,
    /// The kind of its cells.
    pub kind: ColumnKind,
}

/// The kind of a column's cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// A text.
    Text,
    /// A list of `{role, content}`.
    Messages,
    /// A list of integers: a tokenized dataset.
    TokenIds,
    /// Anything else, which cannot be extracted from.
    Other,
}

impl ColumnKind {
    /// Returns the word, as JSON has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Messages => "messages",
            Self::TokenIds => "token_ids",
            Self::Other => "other",
        }
    }
}

impl From<Kind> for ColumnKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text,
            Kind::Messages => Self::Messages,
            Kind::TokenIds => Self::TokenIds,
            Kind::Unspecified | Kind::Other => Self::Other,
        }
    }
}

/// A file of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DatasetFile {
    /// Absolute, on the server.
    pub path: String,
    /// Its size.
    pub size_bytes: i64,
    /// 64 hex digits.
    pub sha256: String,
    /// Its rows.
    pub rows: i64,
}

impl From<&catalog::Dataset> for Dataset {
    fn from(d: &catalog::Dataset) -> Self {
        let error = d.error.as_ref().filter(|_| d.state() == State::Error).map(ServiceError::from_rpc);
        let column =
            |c: &catalog::DatasetColumn| DatasetColumn { name: c.name.clone(), kind: c.kind().into() };
        let file = |file: &catalog::DatasetFile| DatasetFile {
            path: file.path.clone(),
            size_bytes: file.size_bytes,
            sha256: file.sha256.clone(),
            rows: file.rows,
        };
        Self {
            id: d.id,
            name: d.handle.clone(),
            source: match d.source() {
                catalog::Source::Local => Source::Local,
                catalog::Source::Huggingface | catalog::Source::Unspecified => Source::Huggingface,
            },
            repo_id: some(&d.repo_id),
            revision: some(&d.revision),
            commit: some(&d.commit),
            config: some(&d.config),
            split: some(&d.split),
            local_path: some(&d.local_path),
            state: d.state().into(),
            format: DatasetFormat::of(d.format()),
            rows: d.rows,
            size_bytes: d.files.iter().fold(0, |sum, file| sum.saturating_add(file.size_bytes)),
            columns: d.columns.iter().map(column).collect(),
            column: some(&d.column),
            files: d.files.iter().map(file).collect(),
            error_message: error.as_ref().map(|e| e.message.clone()),
            error_code: error.as_ref().map(|e| e.reason.name()),
            created_at: time(d.create_time.as_ref()),
            updated_at: time(d.update_time.as_ref()),
        }
    }
}

/// How far a dataset is: a line of `millm datasets add --json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DatasetProgress {
    /// The dataset's name; null until it is registered.
    pub name: Option<String>,
    /// The present step, for people.
    pub detail: String,
    /// Bytes fetched or read.
    pub bytes_done: i64,
    /// Bytes to fetch or read; null until known.
    pub bytes_total: Option<i64>,
}

impl From<&downloader::AddDatasetProgress> for DatasetProgress {
    fn from(p: &downloader::AddDatasetProgress) -> Self {
        Self {
            name: p.dataset.as_ref().and_then(|dataset| some(&dataset.handle)),
            detail: p.detail.clone(),
            bytes_done: p.bytes_done,
            bytes_total: (p.bytes_total > 0).then_some(p.bytes_total),
        }
    }
}

/// The query of `GET /api/datasets/{id}/rows`.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct RowsQuery {
    /// The first row, from 0.
    pub offset: Option<u64>,
    /// How many rows at most; 20 unless given. Large rows make it fewer.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
}

impl RowsQuery {
    /// Returns the request for rows of the dataset `name`.
    pub fn into_request(self, name: String) -> ReadDatasetRowsRequest {
        ReadDatasetRowsRequest { name, offset: self.offset.unwrap_or(0), limit: self.limit.unwrap_or(0) }
    }
}

/// Some rows of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DatasetRows {
    /// The number of the first one, from 0.
    pub offset: u64,
    /// Each an object with the columns as members. Long texts are cut.
    pub rows: Vec<Value>,
}

impl DatasetRows {
    /// Reads the rows of an answer to a request with this `offset`.
    pub fn new(offset: u64, answer: &downloader::ReadDatasetRowsResponse) -> Self {
        let row = |json: &String| serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.clone()));
        Self { offset, rows: answer.rows_json.iter().map(row).collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<AddDatasetRequest, ServiceError> {
        serde_json::from_value::<NewDataset>(value).unwrap().try_into()
    }

    #[test]
    fn requests_are_read() {
        let request = read(json!({"local_path": "/data/a.jsonl", "name": "a", "column": "text"})).unwrap();
        assert_eq!(request.source, Some(add_dataset_request::Source::LocalPath("/data/a.jsonl".into())));
        assert_eq!((request.handle.as_str(), request.column.as_str()), ("a", "text"));
        let request = read(json!({"repo_id": "a/b", "config": "en", "split": "test"})).unwrap();
        let Some(add_dataset_request::Source::Hub(hub)) = request.source else { panic!("not of the hub") };
        assert_eq!((hub.repo_id.as_str(), hub.config.as_str(), hub.split.as_str()), ("a/b", "en", "test"));
        for (bad, field) in [
            (json!({}), "repo_id"),
            (json!({"source": "local"}), "local_path"),
            (json!({"source": "huggingface", "local_path": "/x"}), "repo_id"),
        ] {
            assert_eq!(read(bad).unwrap_err().details["field"], field);
        }
    }

    #[test]
    fn errors_show_only_when_it_cannot_be_read() {
        let error = Some(ServiceError::invalid_dataset("a.csv, row 7", "is no text").to_rpc());
        let mut row = catalog::Dataset { error, ..Default::default() };
        row.set_state(State::Error);
        assert_eq!(Dataset::from(&row).error_code, Some("INVALID_DATASET"));
        row.set_state(State::Ready);
        assert_eq!(Dataset::from(&row).error_code, None);
    }

    #[test]
    fn words_are_those_of_json() {
        for state in (0..=3).map(|n| DatasetState::from(State::try_from(n).unwrap())) {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for kind in (0..=4).map(|n| ColumnKind::from(Kind::try_from(n).unwrap())) {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for format in (1..=4).map(|n| catalog::DatasetFormat::try_from(n).unwrap()) {
            let format = DatasetFormat::of(format).unwrap();
            assert_eq!(serde_json::to_value(format).unwrap(), format.as_str());
        }
    }
}
