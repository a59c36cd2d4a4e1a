//! Conversions between `millm-dataset` and the contract: formats, columns, files, and errors.

use millm_dataset::{Column, DataFile, Error, Format, Kind, PathError, Scan, ScannedFile};
use millm_kit::ServiceError;
use millm_proto::catalog::v1::{Dataset, DatasetColumn, DatasetFile, DatasetFormat, dataset_column};

/// Returns the error of a file or a column as the services report it.
pub(super) fn from_dataset(error: Error) -> ServiceError {
    match error {
        Error::Column { .. } => {
            ServiceError::invalid_argument("column", format!("cannot be chosen: {error}"))
        }
        Error::Cancelled => ServiceError::cancelled(),
        Error::Invalid { .. } | Error::NoRows { .. } | Error::Changed { .. } | Error::Io { .. } => {
            ServiceError::invalid_dataset(error.place(), error.why())
        }
    }
}

/// Returns the error of a path as the services report it.
pub(super) fn from_path(error: PathError) -> ServiceError {
    ServiceError::invalid_dataset_path(error)
}

/// Writes what a scan has found into a row.
pub(super) fn set_scan(dataset: &mut Dataset, scan: Scan) -> Result<(), ServiceError> {
    dataset.rows = i64::try_from(scan.row_count()).map_err(ServiceError::internal)?;
    dataset.set_format(match scan.format {
        Format::Jsonl => DatasetFormat::Jsonl,
        Format::Csv => DatasetFormat::Csv,
        Format::Text => DatasetFormat::Text,
        Format::Parquet => DatasetFormat::Parquet,
    });
    dataset.files = scan.files.into_iter().map(file).collect::<Result<_, _>>()?;
    dataset.columns = scan.columns.into_iter().map(column).collect();
    dataset.column = scan.column.name;
    Ok(())
}

fn file(file: ScannedFile) -> Result<DatasetFile, ServiceError> {
    let path = file.path.into_os_string().into_string();
    Ok(DatasetFile {
        path: path.map_err(|_| ServiceError::invalid_dataset_path("it is not UTF-8"))?,
        size_bytes: i64::try_from(file.size).map_err(ServiceError::internal)?,
        sha256: file.sha256,
        rows: i64::try_from(file.rows).map_err(ServiceError::internal)?,
    })
}

fn column(column: Column) -> DatasetColumn {
    let kind = match column.kind {
        Kind::Text => dataset_column::Kind::Text,
        Kind::Messages => dataset_column::Kind::Messages,
        Kind::TokenIds => dataset_column::Kind::TokenIds,
        Kind::Other => dataset_column::Kind::Other,
    };
    DatasetColumn { name: column.name, kind: kind.into() }
}

/// Returns the registered files of a row.
pub(super) fn data_files(dataset: &Dataset) -> Vec<DataFile> {
    let file = |file: &DatasetFile| DataFile {
        path: file.path.clone().into(),
        size: u64::try_from(file.size_bytes).unwrap_or_default(),
        rows: u64::try_from(file.rows).unwrap_or_default(),
    };
    dataset.files.iter().map(file).collect()
}

/// Returns the format of a row; `None` for a row that has none.
pub(super) fn format(dataset: &Dataset) -> Option<Format> {
    match dataset.format() {
        DatasetFormat::Unspecified => None,
        DatasetFormat::Jsonl => Some(Format::Jsonl),
        DatasetFormat::Csv => Some(Format::Csv),
        DatasetFormat::Text => Some(Format::Text),
        DatasetFormat::Parquet => Some(Format::Parquet),
    }
}
