//! ReadDatasetRows: a preview of a dataset's rows.

use std::path::PathBuf;

use millm_dataset::{AllowedFolders, Dataset, Stop};
use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::{self as catalog, Source, dataset::State},
    downloader::v1::{ReadDatasetRowsRequest, ReadDatasetRowsResponse},
};

use super::convert::{data_files, format, from_dataset, from_path};
use crate::{context::Context, store::datasets_dir::DatasetsDir};

const DEFAULT_ROWS: u32 = 20;
const MAX_ROWS: u32 = 100;
/// An answer has fewer rows rather than more bytes: gRPC clients refuse messages over 4 MiB by default.
const MAX_ANSWER_BYTES: usize = 2 << 20;

/// Reads rows as JSON, texts cut. It returns fewer rows than were asked for at the end of the dataset, and where an answer
/// would be too large.
///
/// # Errors
///
/// DATASET_NOT_FOUND, DATASET_NOT_READY, INVALID_DATASET, INVALID_DATASET_PATH, SERVICE_UNAVAILABLE.
pub(crate) async fn read(
    context: &Context,
    request: ReadDatasetRowsRequest,
) -> Result<ReadDatasetRowsResponse, ServiceError> {
    let row = context.datasets.get(&request.name).await?;
    match row.state() {
        State::Ready => {}
        State::Error => return Err(ServiceError::dataset_not_ready(&row.handle, "it could not be added")),
        State::Pending | State::Unspecified => {
            return Err(ServiceError::dataset_not_ready(&row.handle, "it is being fetched or read"));
        }
    }
    let limit = match request.limit {
        0 => DEFAULT_ROWS,
        limit => limit.min(MAX_ROWS),
    } as usize;
    let folders = match row.source() {
        Source::Local => context.dataset_folders.clone(),
        _ => AllowedFolders::new([DatasetsDir::new(&context.models_dir).root()]),
    };
    // Stops the thread when the caller leaves.
    let stop = StopOnDrop(Stop::default());
    let (offset, switch) = (request.offset, stop.0.clone());
    let rows = tokio::task::spawn_blocking(move || read_rows(&row, &folders, offset, limit, switch));
    let rows_json = rows.await.map_err(ServiceError::internal)??;
    drop(stop);
    Ok(ReadDatasetRowsResponse { rows_json })
}

struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn read_rows(
    row: &catalog::Dataset,
    folders: &AllowedFolders,
    offset: u64,
    limit: usize,
    stop: Stop,
) -> Result<Vec<String>, ServiceError> {
    let format =
        format(row).ok_or_else(|| ServiceError::dataset_not_ready(&row.handle, "it has no format"))?;
    let files = data_files(row);
    let mut first = 0_u64;
    for file in &files {
        let end = first.saturating_add(file.rows);
        // A link may lead elsewhere since the dataset was registered. Only files that are read are checked.
        if first < offset.saturating_add(limit as u64) && offset < end {
            let real: PathBuf = folders.check_file(&file.path).map_err(from_path)?;
            if real != file.path {
                let why = format!("'{}' leads elsewhere since it was registered", file.path.display());
                return Err(ServiceError::invalid_dataset_path(why));
            }
        }
        first = end;
    }
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for row in Dataset::new(format, files).with_stop(stop).preview(offset).take(limit) {
        let json = serde_json::to_string(&row.map_err(from_dataset)?).map_err(ServiceError::internal)?;
        bytes += json.len();
        if bytes > MAX_ANSWER_BYTES && !rows.is_empty() {
            break;
        }
        rows.push(json);
    }
    Ok(rows)
}
