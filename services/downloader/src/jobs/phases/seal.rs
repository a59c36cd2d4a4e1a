//! Phase 6, seal: hashes the files, writes the manifest, renames the folder to its final name, and sets the row to
//! READY.
//!
//! After `kill -9`, the next start ([`repair::startup`](crate::repair::startup)) returns the job:
//! - before the manifest is written: the folder is not complete. The job runs again; verified files are not fetched
//!   again. A hub model that has its build record is not quantized again; a person's own model is.
//! - after the manifest, before the rename: the job finds the sealed folder, and renames it.
//! - after the rename, before the row: the job finds the finished folder by its manifest ([`find_finished`]), and sets
//!   the row.
//!
//! Once the folder is sealed, a cancel comes too late: the job completes.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use millm_kit::{Reason, ServiceError};
use millm_proto::{catalog::v1::Model, downloader::v1::download::State};

use crate::{
    context::Context,
    error::from_disk,
    hub::digest::Digest,
    jobs::{
        catalog_row::{READY_FIELDS, ready_row},
        state::{JobEnd, JobState, Workspace},
    },
    resolve::plan,
    store::{
        atomic_file::{ignore_not_found, sync_folder, write_json},
        manifest::{self, BuildRecord, Manifest, ManifestEntry},
        models_dir::{Incoming, ModelsDir},
    },
};

const BUFFER_BYTES: usize = 1 << 20;

/// Seals the incoming folder.
///
/// # Errors
///
/// INSUFFICIENT_DISK, INTERNAL.
pub(crate) async fn run(
    context: &Context,
    job: &mut JobState,
    workspace: &Workspace,
    record: BuildRecord,
) -> Result<(), ServiceError> {
    job.reporter.stage(State::Finalizing, "");
    let (incoming, row, models_dir) =
        (workspace.incoming.clone(), job.row.clone(), context.models_dir.clone());
    let sealed = workspace
        .writers
        .spawn_blocking(move || seal(&incoming, &row, &record, models_dir.catalog_id()))
        .await;
    let sealed = sealed.map_err(ServiceError::internal)?;
    sealed.map_err(|error| from_disk(&job.row.handle, "sealing the model", &error))
}

/// Gives the sealed folder its final name, and returns it.
///
/// # Errors
///
/// INVALID_REPO_ID, INSUFFICIENT_DISK, INTERNAL.
pub(crate) async fn rename_to_final(
    context: &Context,
    job: &JobState,
    workspace: &Workspace,
) -> Result<PathBuf, ServiceError> {
    let wanted = context.models_dir.final_folder(&job.row)?;
    let (incoming, id) = (workspace.incoming.clone(), job.row.id);
    job.blocking("moving the model to its place", move || rename(&incoming, &wanted, id)).await
}

/// Returns the finished folder that a crash kept from its row, if there is one.
///
/// # Errors
///
/// INTERNAL when the models folder cannot be read.
pub(crate) async fn find_finished_folder(
    context: &Context,
    job: &JobState,
) -> Result<Option<PathBuf>, ServiceError> {
    let (models_dir, row) = (context.models_dir.clone(), job.row.clone());
    job.blocking("reading the models folder", move || find_finished(&models_dir, &row)).await
}

/// Sets the row to READY: the last step, repeated until the Catalog answers.
///
/// # Errors
///
/// [`JobEnd::Suspended`] when the process stops meanwhile, [`JobEnd::Cancelled`] when the row was deleted during the
/// download, [`JobEnd::Failed`] with any other error of the Catalog or the model.
pub(crate) async fn register(context: &Context, job: &mut JobState, folder: &Path) -> Result<(), JobEnd> {
    job.reporter.stage(State::Finalizing, "");
    let row = ready_row(context, &job.row, folder).await?;
    match context.catalog.update_with_retry(&context.shutdown, &row, READY_FIELDS).await {
        None => Err(JobEnd::Suspended),
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) if error.reason == Reason::ModelNotFound => {
            tracing::info!(id = job.row.id, "the model was removed from the catalog during its download");
            let (models_dir, folder) = (context.models_dir.clone(), folder.to_owned());
            job.blocking("removing the model", move || models_dir.remove_finished(&folder)).await?;
            Err(JobEnd::Cancelled)
        }
        Some(Err(error)) => Err(JobEnd::Failed(error)),
    }
}

/// Completes a folder: removes temporary files, hashes what is not hashed yet, writes the manifest, syncs. Blocks.
///
/// # Errors
///
/// Returns the system's error.
pub(crate) fn seal(
    incoming: &Incoming,
    row: &Model,
    record: &BuildRecord,
    catalog_id: &str,
) -> io::Result<()> {
    ignore_not_found(fs::remove_dir_all(incoming.partials()))?;
    let mut files = Vec::new();
    list(incoming.path(), "", record, &mut files)?;
    let manifest = Manifest::new(row, record, catalog_id, files);
    sync_folder(incoming.path())?;
    write_json(&incoming.path().join(manifest::FILE), &manifest)?;
    for name in [manifest::RECORD_FILE, plan::FILE] {
        ignore_not_found(fs::remove_file(incoming.path().join(name)))?;
    }
    sync_folder(incoming.path())
}

fn list(folder: &Path, prefix: &str, record: &BuildRecord, files: &mut Vec<ManifestEntry>) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{path}/"), record, files)?;
        } else if ![manifest::FILE, manifest::RECORD_FILE, plan::FILE].contains(&path.as_str()) {
            let known =
                record.known_digests.iter().find(|(name, _)| *name == path).map(|(_, digest)| *digest);
            let sha256 = match known {
                Some(digest @ Digest::Sha256(_)) => digest.hex(),
                _ => sha256_of(&entry.path())?.hex(),
            };
            files.push(ManifestEntry { path, size: entry.metadata()?.len(), sha256 });
        }
    }
    Ok(())
}

fn sha256_of(path: &Path) -> io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Digest::Sha256([0; 32]).hasher(0);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..read]);
    }
}

/// Renames a sealed folder to `wanted`, or to `wanted` with the model's id where another model has that name.
///
/// # Errors
///
/// Returns the system's error.
pub(crate) fn rename(incoming: &Incoming, wanted: &Path, id: i64) -> io::Result<PathBuf> {
    let numbered = |ending: String| {
        let mut name = wanted.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let names = std::iter::once(wanted.to_owned())
        .chain(std::iter::once(numbered(format!("--{id}"))))
        .chain((2..).map(|n| numbered(format!("--{id}-{n}"))));
    for name in names {
        if fs::symlink_metadata(&name).is_ok() {
            continue;
        }
        match fs::rename(incoming.path(), &name) {
            // Another process took the name in between.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => continue,
            renamed => renamed?,
        }
        if let Some(parent) = name.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        return Ok(name);
    }
    unreachable!("the numbers do not end")
}

/// Returns the finished folder of `row`'s model.
///
/// # Errors
///
/// Returns the system's error.
pub(crate) fn find_finished(models_dir: &ModelsDir, row: &Model) -> io::Result<Option<PathBuf>> {
    let belongs = |folder: &PathBuf| {
        Manifest::read_complete(folder)
            .is_some_and(|manifest| manifest.belongs_to(row, models_dir.catalog_id()))
    };
    Ok(models_dir.finished()?.into_iter().find(belongs))
}

#[cfg(test)]
mod tests {
    use millm_kit::names::RepoId;
    use millm_proto::catalog::v1::Quantization;

    use super::*;

    #[test]
    fn a_folder_is_complete_only_with_its_manifest_and_all_bytes() {
        let root = tempfile::tempdir().unwrap();
        let models_dir = ModelsDir::open(root.path()).unwrap();
        let incoming = models_dir.incoming(7);
        incoming.create().unwrap();
        fs::write(incoming.path().join("model.gguf"), b"hello").unwrap();
        let mut row = Model { id: 7, repo_id: "o/n".into(), ..Model::default() };
        row.set_requested_quantization(Quantization::Q2);
        let record = BuildRecord::new(Quantization::Q4, "rows".into(), 9);
        assert!(Manifest::read_complete(incoming.path()).is_none());
        models_dir.bind_catalog("ab12");
        seal(&incoming, &row, &record, "ab12").unwrap();
        let other = models_dir.hub_folder(&RepoId::parse("o/n").unwrap(), "Q2", "");
        fs::create_dir_all(&other).unwrap();
        let folder = rename(&incoming, &other, 7).unwrap();
        assert!(folder.ends_with("o--n--Q2--7"));
        assert_eq!(find_finished(&models_dir, &row).unwrap(), Some(folder.clone()));
        assert_eq!(find_finished(&models_dir, &Model { id: 8, ..row.clone() }).unwrap(), None);
        assert_eq!(
            find_finished(&ModelsDir::open(root.path()).unwrap(), &row).unwrap(),
            None,
            "another catalog's"
        );
        let manifest = Manifest::read_complete(&folder).unwrap();
        assert!(manifest.is_identical_to(&Model { id: 8, repo_id: "O/N".into(), ..row.clone() }));
        assert!(!manifest.is_identical_to(&Model { commit: "c".repeat(40), ..row.clone() }));
        assert_eq!((manifest.files().len(), manifest.files()[0].size), (1, 5));
        Manifest::read_complete(&folder).unwrap().fill_row(&mut row);
        assert_eq!((row.actual_quantization(), row.disk_size_bytes), (Quantization::Q4, 5));
        assert!(row.files[0].sha256.starts_with("2cf24dba"));
        fs::write(folder.join("model.gguf"), b"hell").unwrap();
        assert!(Manifest::read_complete(&folder).is_none() && Manifest::read(&folder).is_some());
    }
}
