//! The texts of an extraction: rows of a registered dataset, tokenized by the model's tokenizer and planned into samples.
//!
//! Reading and planning block, so they run on a blocking thread. Tokenizing is the sandbox's work; the thread waits for a
//! few texts at a time.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{StreamExt as _, TryStreamExt as _};
use millm_dataset::{Column, DataFile, Dataset, Format, Kind, Row, Selection, choose_column};
use millm_extraction::{Plan, PlanSettings, PlanWriter, Planner, Positions};
use millm_kit::{Channel, Reason, ServiceError, format::excerpt};
use millm_proto::catalog::v1::{
    Dataset as DatasetRow, DatasetFormat, GetDatasetRequest, dataset, dataset_column,
    datasets_service_client::DatasetsServiceClient,
};
use millm_sandbox::Chat;
use serde_json::json;
use tokio::{runtime::Handle, time::Duration};
use tokio_util::sync::CancellationToken;

use crate::{error, loader::RequestGuard, tokenizer_bundle::TokenizerBundle};

/// The largest answer of the catalog: a dataset of many files.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Rows that are read before they are tokenized.
const CHUNK_ROWS: usize = 64;
/// The size of rows after which a chunk is tokenized, in bytes of text or in token ids.
const CHUNK_BYTES: usize = 1 << 20;
/// Texts that are tokenized at the same time. Requests need the sandbox too.
const PARALLEL: usize = 2;
/// The pause before a text is tried again when the sandbox is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// A client of the catalog's datasets. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct DatasetsClient(DatasetsServiceClient<Channel>);

impl DatasetsClient {
    /// Returns a client that calls the catalog through `channel`.
    pub fn new(channel: Channel) -> Self {
        Self(DatasetsServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// Finds a dataset that can be read.
    ///
    /// # Errors
    ///
    /// DATASET_NOT_FOUND, DATASET_NOT_READY, or SERVICE_UNAVAILABLE if the catalog does not answer.
    pub async fn ready(&self, name: &str) -> Result<DatasetRow, ServiceError> {
        if name.is_empty() {
            return Err(ServiceError::invalid_argument("dataset", "must name a registered dataset"));
        }
        let request = GetDatasetRequest { name: name.to_owned() };
        let response = self.0.clone().get_dataset(request).await.map_err(|status| {
            let error = ServiceError::from(&status);
            if error.reason == Reason::ServiceUnavailable {
                return ServiceError::service_unavailable("catalog");
            }
            error
        });
        let row = response?.into_inner();
        match row.state() {
            dataset::State::Ready => Ok(row),
            dataset::State::Error => Err(ServiceError::dataset_not_ready(row.handle, "it could not be read")),
            dataset::State::Pending | dataset::State::Unspecified => {
                Err(ServiceError::dataset_not_ready(row.handle, "it is being fetched"))
            }
        }
    }
}

/// The column of a dataset that is read, with the files.
#[derive(Debug, Clone)]
pub(crate) struct Texts {
    /// The dataset's handle, for errors.
    handle: String,
    paths: Vec<PathBuf>,
    dataset: Dataset,
    /// The column that is read.
    pub column: Column,
}

impl Texts {
    /// Chooses a dataset's column: the one that is `asked` for, or the dataset's own.
    ///
    /// # Errors
    ///
    /// INVALID_DATASET for a dataset without rows, or without such a column.
    pub fn new(row: &DatasetRow, asked: &str) -> Result<Self, ServiceError> {
        let invalid = |why: String| ServiceError::invalid_dataset(&row.handle, why);
        let columns: Vec<Column> =
            row.columns.iter().map(|column| Column::new(column.name.clone(), kind(column.kind()))).collect();
        let asked = if asked.is_empty() { &row.column } else { asked };
        let column =
            choose_column(&columns, asked).map_err(|error| error::from_dataset(&row.handle, &error))?;
        let format = match row.format() {
            DatasetFormat::Jsonl => Format::Jsonl,
            DatasetFormat::Csv => Format::Csv,
            DatasetFormat::Text => Format::Text,
            DatasetFormat::Parquet => Format::Parquet,
            DatasetFormat::Unspecified => return Err(invalid("its format is not known".to_owned())),
        };
        let file = |file: &millm_proto::catalog::v1::DatasetFile| DataFile {
            path: PathBuf::from(&file.path),
            size: file.size_bytes.max(0) as u64,
            rows: file.rows.max(0) as u64,
        };
        let files: Vec<DataFile> = row.files.iter().map(file).collect();
        let paths = files.iter().map(|file| file.path.clone()).collect();
        let dataset = Dataset::new(format, files);
        if dataset.row_count() == 0 {
            return Err(invalid("it has no rows".to_owned()));
        }
        Ok(Self { handle: row.handle.clone(), paths, dataset, column })
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> u64 {
        self.dataset.row_count()
    }

    /// Checks that the files are those that were registered: a link on their path may lead elsewhere since. A file that is
    /// gone is an error when it is read.
    ///
    /// # Errors
    ///
    /// INVALID_DATASET_PATH.
    fn check_paths(&self) -> Result<(), ServiceError> {
        for path in &self.paths {
            if path.canonicalize().is_ok_and(|real| real != *path) {
                let why = format!("'{}' leads elsewhere since it was registered", path.display());
                return Err(ServiceError::invalid_dataset_path(why));
            }
        }
        Ok(())
    }
}

fn kind(kind: dataset_column::Kind) -> Kind {
    match kind {
        dataset_column::Kind::Text => Kind::Text,
        dataset_column::Kind::Messages => Kind::Messages,
        dataset_column::Kind::TokenIds => Kind::TokenIds,
        dataset_column::Kind::Other | dataset_column::Kind::Unspecified => Kind::Other,
    }
}

/// How rows become tokens.
#[derive(Clone)]
pub(crate) struct Tokenizing {
    pub tokenizer: Arc<TokenizerBundle>,
    /// Messages are rendered with the chat template; a text is the message of a user.
    pub chat: bool,
    /// The tokenizer adds its own special tokens to texts.
    pub special_tokens: bool,
}

impl Tokenizing {
    /// Checks that rows of a kind can be tokenized.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for messages without the chat template, or token ids with it.
    pub fn check(chat: bool, column: &Column) -> Result<(), ServiceError> {
        let why = match (column.kind, chat) {
            (Kind::Messages, false) => "must be true: the column has messages, and no texts",
            (Kind::TokenIds, true) => "must be false: the column has token ids",
            _ => return Ok(()),
        };
        Err(ServiceError::invalid_argument("settings.chat_template", why))
    }

    /// Tokenizes a row. Waits while the sandbox is busy.
    async fn tokens(&self, row: Row) -> Result<Vec<u32>, ServiceError> {
        let chat = match row {
            Row::TokenIds(ids) => {
                self.tokenizer.check_ids("token_ids", &ids)?;
                return Ok(ids);
            }
            Row::Text(text) if text.is_empty() => return Ok(Vec::new()),
            Row::Messages(messages) if messages.is_empty() => return Ok(Vec::new()),
            Row::Text(text) if !self.chat => {
                return when_free(|| self.tokenizer.encode("text", text.clone(), self.special_tokens)).await;
            }
            Row::Text(text) => chat(&[("user", &text)]),
            Row::Messages(messages) => {
                let pairs = messages.iter().map(|message| (message.role.as_str(), message.content.as_str()));
                chat(&pairs.collect::<Vec<_>>())
            }
        };
        // Longer texts are cut or split, so the context does not limit them here.
        when_free(|| self.tokenizer.chat(chat.clone(), usize::MAX)).await
    }
}

/// Returns a conversation. The model is asked to answer unless the assistant has the last word.
fn chat(messages: &[(&str, &str)]) -> Chat {
    let add_generation_prompt = messages.last().is_none_or(|(role, _)| *role != "assistant");
    let messages = messages.iter().map(|(role, content)| json!({"role": role, "content": content}));
    let messages = serde_json::Value::Array(messages.collect()).to_string();
    Chat { messages, tools: None, variables: None, add_generation_prompt, most_bytes: usize::MAX }
}

/// Tries until the sandbox is not busy.
async fn when_free<T, F: Future<Output = Result<T, ServiceError>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<T, ServiceError> {
    loop {
        match attempt().await {
            Err(error) if error.reason == Reason::QueueFull => tokio::time::sleep(BUSY_PAUSE).await,
            result => return result,
        }
    }
}

/// How far a plan is.
#[derive(Debug, Default)]
pub(crate) struct PlanProgress {
    rows: AtomicU64,
}

impl PlanProgress {
    /// Returns the rows that were read.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

/// The work of planning a job.
pub(crate) struct Planning {
    pub folder: PathBuf,
    pub texts: Texts,
    pub tokenizing: Tokenizing,
    pub settings: PlanSettings,
    pub positions: Positions,
    pub progress: Arc<PlanProgress>,
    /// Takes a guard of the model while it is loaded.
    pub use_model: Box<dyn Fn() -> Result<RequestGuard, ServiceError> + Send>,
    pub stop: CancellationToken,
}

impl Planning {
    /// Reads and tokenizes the dataset, and writes the plan. Blocks; `runtime` runs the tokenizing.
    ///
    /// # Errors
    ///
    /// INVALID_DATASET with the file and the row, INVALID_DATASET_PATH, MODEL_NOT_LOADED if the model is unloaded
    /// meanwhile, INSUFFICIENT_DISK, EXTRACTION_FAILED or CANCELLED.
    pub fn run(&self, runtime: &Handle) -> Result<Plan, ServiceError> {
        self.texts.check_paths()?;
        let mut planner = Planner::new(self.settings.clone()).map_err(error::from_extraction)?;
        let mut writer = PlanWriter::create(&self.folder).map_err(error::from_extraction)?;
        let mut rows = self.texts.dataset.rows(&self.texts.column, Selection::default()).fuse();
        while !planner.is_full() {
            let chunk = self.next_chunk(&mut rows)?;
            if chunk.is_empty() {
                break;
            }
            // The model is in use while its tokenizer is: unloading waits for one chunk.
            let _guard = (self.use_model)()?;
            let count = chunk.len() as u64;
            for (row, tokens) in runtime.block_on(self.tokenize(chunk))? {
                planner.push(row, &tokens);
                write_samples(&mut planner, &mut writer)?;
            }
            self.progress.rows.fetch_add(count, Ordering::Relaxed);
        }
        planner.finish();
        write_samples(&mut planner, &mut writer)?;
        let counts = planner.counts();
        if counts.samples == 0 {
            let why = format!("none of its {} rows has a token", counts.rows);
            return Err(ServiceError::invalid_dataset(&self.texts.handle, why));
        }
        writer.finish(&self.settings, &self.positions, counts).map_err(error::from_extraction)
    }

    /// Reads some rows.
    fn next_chunk(
        &self,
        rows: &mut impl Iterator<Item = millm_dataset::Result<(u64, Row)>>,
    ) -> Result<Vec<(u64, Row)>, ServiceError> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            if self.stop.is_cancelled() {
                return Err(ServiceError::cancelled());
            }
            let Some(row) = rows.next() else { break };
            let row = row.map_err(|error| error::from_dataset(&self.texts.handle, &error))?;
            bytes += match &row.1 {
                Row::Text(text) => text.len(),
                Row::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
                Row::TokenIds(ids) => ids.len(),
            };
            chunk.push(row);
        }
        Ok(chunk)
    }

    /// Tokenizes rows, in their order.
    async fn tokenize(&self, rows: Vec<(u64, Row)>) -> Result<Vec<(u64, Vec<u32>)>, ServiceError> {
        let tokenized = futures::stream::iter(rows)
            .map(|(number, row)| async move {
                let tokens = self.tokenizing.tokens(row).await;
                tokens.map(|tokens| (number, tokens)).map_err(|error| self.in_row(number, error))
            })
            .buffered(PARALLEL)
            .try_collect();
        self.stop.run_until_cancelled(tokenized).await.unwrap_or_else(|| Err(ServiceError::cancelled()))
    }

    /// Names the row in the error of a text that cannot be tokenized.
    fn in_row(&self, row: u64, error: ServiceError) -> ServiceError {
        match error.reason {
            Reason::InvalidArgument | Reason::ContextLengthExceeded => {
                let place = format!("{}, row {row}", self.texts.handle);
                ServiceError::invalid_dataset(place, excerpt(error.message.trim_end_matches('.')))
            }
            _ => error,
        }
    }
}

fn write_samples(planner: &mut Planner, writer: &mut PlanWriter) -> Result<(), ServiceError> {
    while let Some(sample) = planner.next_sample() {
        writer.write(&sample).map_err(error::from_extraction)?;
    }
    Ok(())
}

/// Returns the name of a file without its folder.
pub(crate) fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_answers_unless_the_assistant_was_last() {
        let check = |roles: &[&str], expected: bool| {
            let messages: Vec<_> = roles.iter().map(|role| (*role, "text")).collect();
            assert_eq!(chat(&messages).add_generation_prompt, expected, "{roles:?}");
        };
        check(&["user"], true);
        check(&["system", "user"], true);
        check(&["user", "assistant"], false);
        assert_eq!(chat(&[("user", "a \"b\"")]).messages, r#"[{"role":"user","content":"a \"b\""}]"#);
    }

    #[test]
    fn kinds_of_columns_need_the_right_template_setting() {
        let check = |kind, chat, ok: bool| {
            let result = Tokenizing::check(chat, &Column::new("c", kind));
            assert_eq!(result.is_ok(), ok, "{kind} {chat}");
        };
        check(Kind::Text, false, true);
        check(Kind::Text, true, true);
        check(Kind::Messages, true, true);
        check(Kind::Messages, false, false);
        check(Kind::TokenIds, false, true);
        check(Kind::TokenIds, true, false);
    }
}
