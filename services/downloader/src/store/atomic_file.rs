//! Small JSON files that a crash leaves old or new, never half, and folders that survive a power cut.

use std::{fs, io, path::Path};

use serde::{Serialize, de::DeserializeOwned};

/// Writes a file beside `path` and renames it: readers see the old content or the new.
///
/// # Errors
///
/// Returns the system's error.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    fs::write(&beside, serde_json::to_vec_pretty(value)?)?;
    fs::rename(beside, path)
}

/// Reads a file. Returns `None` when it is absent or does not parse: a damaged file counts as absent.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Syncs the files of a folder and then the folder, so that contents and names survive a power cut.
///
/// # Errors
///
/// Returns the system's error.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    fs::File::open(folder)?.sync_all()
}

/// Turns "not found" into success, for removals and renames.
///
/// # Errors
///
/// Returns every other error of `result`.
pub(crate) fn ignore_not_found(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
