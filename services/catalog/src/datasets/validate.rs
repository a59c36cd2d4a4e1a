//! Validation of datasets before they are written. The Downloader has read the files; this module checks the form of the
//! fields, and that a dataset can be read back.

use std::path::Path;

use millm_kit::{
    ServiceError,
    names::{self, RepoId, Revision, is_commit},
};
use millm_proto::catalog::v1::{Dataset, DatasetFormat, Source, dataset::State, dataset_column::Kind};
use prost::Message as _;

use crate::validate::must_be_empty;

/// The longest derived handle; it leaves room for a number.
const MAX_DERIVED_CHARS: usize = 240;
const MAX_FILES: usize = 10_000;
const MAX_COLUMNS: usize = 10_000;
/// The longest path, and the longest name of a column, in bytes.
const MAX_PATH_BYTES: usize = 4096;
const MAX_NAME_BYTES: usize = 1024;
/// The longest name of a configuration or a split, in bytes.
const MAX_SPLIT_BYTES: usize = 255;
/// The largest dataset, encoded.
const MAX_BYTES: usize = 16 << 20;

/// Returns the dataset to insert for a request's dataset: without output-only fields, with defaults. One without a state
/// is PENDING.
///
/// # Errors
///
/// INVALID_ARGUMENT, INVALID_REPO_ID or INVALID_DATASET_PATH for a field that is not valid.
pub(super) fn new_dataset(mut dataset: Dataset) -> Result<Dataset, ServiceError> {
    match dataset.source() {
        Source::Huggingface => {
            RepoId::parse(&dataset.repo_id)?;
            let revision = Revision::parse(&dataset.revision)?;
            revision.as_str().clone_into(&mut dataset.revision);
            must_be_empty("local_path", &dataset.local_path, "for a dataset from the hub")?;
        }
        Source::Local => {
            if !Path::new(&dataset.local_path).is_absolute() {
                return Err(ServiceError::invalid_dataset_path("it must be absolute"));
            }
            for (field, value) in [
                ("repo_id", &dataset.repo_id),
                ("revision", &dataset.revision),
                ("config", &dataset.config),
                ("split", &dataset.split),
            ] {
                must_be_empty(field, value, "for a local dataset")?;
            }
        }
        Source::Unspecified => return Err(ServiceError::invalid_argument("source", "must be given")),
    }
    // The number is compared, since an unknown value must not count as unset.
    if dataset.state == 0 {
        dataset.set_state(State::Pending);
    }
    dataset.id = 0;
    dataset.error = None;
    dataset.create_time = None;
    dataset.update_time = None;
    if !dataset.handle.is_empty() {
        check_handle(&dataset.handle)?;
    }
    check_fields(&dataset)?;
    Ok(dataset)
}

/// Checks a handle that a caller chose.
///
/// # Errors
///
/// INVALID_ARGUMENT for text that is not a handle.
pub(super) fn check_handle(handle: &str) -> Result<(), ServiceError> {
    if names::is_handle(handle) {
        return Ok(());
    }
    Err(ServiceError::invalid_argument("handle", "must be 1 to 255 letters, digits, '-', '_' or '.'"))
}

/// Checks all fields that can be written.
///
/// # Errors
///
/// INVALID_ARGUMENT, which names the first field that is not valid.
pub(super) fn check_fields(dataset: &Dataset) -> Result<(), ServiceError> {
    let invalid = ServiceError::invalid_argument;
    Revision::parse(&dataset.revision)?;
    if !dataset.commit.is_empty() && !is_commit(&dataset.commit) {
        return Err(invalid("commit", "must be 40 hex digits in lower case"));
    }
    for (field, text, limit) in [
        ("config", &dataset.config, MAX_SPLIT_BYTES),
        ("split", &dataset.split, MAX_SPLIT_BYTES),
        ("local_path", &dataset.local_path, MAX_PATH_BYTES),
        ("column", &dataset.column, MAX_NAME_BYTES),
    ] {
        check_text(field, text, limit)?;
    }
    if State::try_from(dataset.state).is_err() || dataset.state() == State::Unspecified {
        return Err(invalid("state", "has an unknown value"));
    }
    if DatasetFormat::try_from(dataset.format).is_err() {
        return Err(invalid("format", "has an unknown value"));
    }
    if dataset.rows < 0 {
        return Err(invalid("rows", "must not be negative"));
    }
    check_files(dataset)?;
    check_columns(dataset)?;
    if dataset.state() == State::Ready {
        check_ready(dataset)?;
    }
    let bytes = dataset.encoded_len();
    if bytes > MAX_BYTES {
        return Err(invalid("dataset", format!("has {bytes} bytes, the limit is {MAX_BYTES}").as_str()));
    }
    Ok(())
}

fn check_files(dataset: &Dataset) -> Result<(), ServiceError> {
    let invalid = |field: &str, why: &str| Err(ServiceError::invalid_argument(field, why));
    if dataset.files.len() > MAX_FILES {
        let why = format!("has {} elements, the limit is {MAX_FILES}", dataset.files.len());
        return invalid("files", &why);
    }
    for file in &dataset.files {
        check_text("files.path", &file.path, MAX_PATH_BYTES)?;
        if !Path::new(&file.path).is_absolute() {
            return invalid("files.path", "must be absolute");
        }
        let is_hash =
            file.sha256.len() == 64 && file.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !file.sha256.is_empty() && !is_hash {
            return invalid("files.sha256", "must be 64 hex digits in lower case");
        }
        if file.size_bytes < 0 || file.rows < 0 {
            return invalid(
                if file.rows < 0 { "files.rows" } else { "files.size_bytes" },
                "must not be negative",
            );
        }
    }
    Ok(())
}

fn check_columns(dataset: &Dataset) -> Result<(), ServiceError> {
    let invalid = |field: &str, why: &str| Err(ServiceError::invalid_argument(field, why));
    if dataset.columns.len() > MAX_COLUMNS {
        let why = format!("has {} elements, the limit is {MAX_COLUMNS}", dataset.columns.len());
        return invalid("columns", &why);
    }
    for column in &dataset.columns {
        check_text("columns.name", &column.name, MAX_NAME_BYTES)?;
        if Kind::try_from(column.kind).is_err() {
            return invalid("columns.kind", "has an unknown value");
        }
    }
    Ok(())
}

/// Checks that a dataset can be read.
fn check_ready(dataset: &Dataset) -> Result<(), ServiceError> {
    let needed = |field: &str, why: &str| Err(ServiceError::invalid_argument(field, why));
    if dataset.files.is_empty() || dataset.rows == 0 {
        let field = if dataset.rows == 0 { "rows" } else { "files" };
        return needed(field, "must not be empty for a dataset that is READY");
    }
    let rows = dataset.files.iter().try_fold(0_i64, |rows, file| rows.checked_add(file.rows));
    if rows != Some(dataset.rows) {
        return needed("rows", "must be the sum of the files' rows");
    }
    if dataset.format() == DatasetFormat::Unspecified {
        return needed("format", "must be given for a dataset that is READY");
    }
    if !dataset.columns.iter().any(|column| column.name == dataset.column) {
        return needed("column", "must be one of the columns");
    }
    Ok(())
}

fn check_text(field: &str, text: &str, limit: usize) -> Result<(), ServiceError> {
    if text.len() > limit {
        let why = format!("has {} bytes, the limit is {limit}", text.len());
        return Err(ServiceError::invalid_argument(field, why));
    }
    if text.contains('\0') {
        return Err(ServiceError::invalid_argument(field, "must not contain NUL"));
    }
    Ok(())
}

/// Derives a handle from the name of the repository, with a configuration and a split that are not the usual ones, or of
/// the local file, folder or pattern.
pub(super) fn derive_handle(dataset: &Dataset) -> String {
    let name = if dataset.source() == Source::Local {
        local_name(&dataset.local_path)
    } else {
        let name = dataset.repo_id.rsplit('/').next().unwrap_or_default();
        let unusual = [(&dataset.config, "default"), (&dataset.split, "train")];
        let parts = unusual.into_iter().filter(|(part, usual)| !part.is_empty() && part.as_str() != *usual);
        parts.fold(name.to_owned(), |name, (part, _)| format!("{name}-{part}"))
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String =
        name.chars().map(|c| if allowed(c) { c } else { '-' }).take(MAX_DERIVED_CHARS).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() || name.bytes().all(|b| b.is_ascii_digit()) {
        // Digits alone would be read as an id.
        return format!("dataset-{name}").trim_end_matches('-').to_owned();
    }
    name.to_owned()
}

/// Returns the last part of a path that is no pattern, without the endings of data files.
fn local_name(path: &str) -> String {
    let is_plain = |part: &&str| !part.is_empty() && !part.contains(['*', '?', '[']);
    let name = path.rsplit('/').find(is_plain).unwrap_or_default();
    let mut name = name.to_owned();
    for ending in [".gz", ".zst", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet"] {
        if name.len() > ending.len() && name.to_ascii_lowercase().ends_with(ending) {
            name.truncate(name.len() - ending.len());
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_derived_from_repository_or_path() {
        let hub = |repo: &str, config: &str, split: &str| {
            let (repo_id, config, split) = (repo.into(), config.into(), split.into());
            derive_handle(&Dataset { repo_id, config, split, source: 1, ..Dataset::default() })
        };
        assert_eq!(hub("Salesforce/wikitext", "", "train"), "wikitext");
        assert_eq!(hub("Salesforce/wikitext", "wikitext-2-v1", "test"), "wikitext-wikitext-2-v1-test");
        assert_eq!(hub("a/2048", "default", "train"), "dataset-2048");
        let local =
            |path: &str| derive_handle(&Dataset { local_path: path.into(), source: 2, ..Dataset::default() });
        assert_eq!(local("/data/train.jsonl.gz"), "train");
        assert_eq!(local("/data/pile (small)/*.parquet"), "pile--small");
        assert_eq!(local("/data/**/x-*.jsonl"), "data");
        assert_eq!(local("/"), "dataset");
        assert_eq!(local(&format!("/{}", "a".repeat(300))).len(), MAX_DERIVED_CHARS);
    }
}
