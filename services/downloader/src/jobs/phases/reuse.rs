//! Phase 2, reuse: files that are on this machine already are checked, then linked or copied instead of fetched.
//!
//! Candidates are the files of our own models, in whatever catalog, and the blobs of the Hugging Face cache. A file is
//! linked or copied to a temporary name beside the partial files, hashed there, synced, and then renamed: the bytes that
//! were hashed are the bytes that are used.
//!
//! Our own large files are linked: a finished file is never written again, so two models can share its bytes. Our small
//! files are copied, because people edit a config.json. Files of the Hugging Face cache are always copied: other tools
//! may change them in place. On file systems that share blocks (btrfs, XFS, APFS) a copy costs neither time nor room,
//! because `copy_file_range` shares them.
//!
//! After `kill -9`: files under their final names are checked and stay. A temporary file is overwritten when the
//! job runs again, or removed when the folder is sealed.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use millm_kit::ServiceError;
use millm_proto::{
    catalog::v1::{Model, Quantization},
    downloader::v1::download::State,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    context::Context,
    error::{from_disk, is_disk_full},
    hub::digest::Digest,
    jobs::state::{JobState, Workspace},
    limits::SMALL_FILE_BYTES,
    progress::{Reporter, StageShares},
    resolve::plan::{DownloadPlan, PlannedFile},
    store::{
        atomic_file::ignore_not_found,
        hf_cache::HfCache,
        manifest::{BuildRecord, Manifest, ManifestFile},
        models_dir::{Incoming, ModelsDir, SOURCE_FOLDER},
    },
};

const BUFFER_BYTES: usize = 1 << 20;
/// Bytes that are copied between two checks for a cancel.
const COPY_BYTES: u64 = 64 << 20;
const TICK: Duration = Duration::from_millis(250);

/// A file that may have the wanted content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    is_ours: bool,
}

/// An index of the files on this machine.
#[derive(Debug, Default)]
struct LocalFiles {
    by_digest: HashMap<Digest, Vec<PathBuf>>,
    /// Small files by name and size: the hub gives their Git digest, and manifests hold SHA-256.
    by_name: HashMap<(String, u64), Vec<PathBuf>>,
    hf_cache: Option<HfCache>,
}

impl LocalFiles {
    /// Reads the manifests of the models folder. Blocks.
    fn read(models_dir: &ModelsDir, hf_cache: Option<&HfCache>) -> io::Result<Self> {
        let mut local = Self { hf_cache: hf_cache.cloned(), ..Self::default() };
        for folder in models_dir.finished()? {
            // A model that has lost files may still have others.
            for file in Manifest::read(&folder).iter().flat_map(Manifest::files) {
                let path = folder.join(file.path.as_str());
                let name = file.path.as_str().rsplit('/').next().unwrap_or_default().to_owned();
                local.by_digest.entry(file.digest).or_default().push(path.clone());
                local.by_name.entry((name, file.size)).or_default().push(path);
            }
        }
        Ok(local)
    }

    fn candidates(&self, file: &PlannedFile) -> Vec<Candidate> {
        let ours = match file.digest {
            Digest::Sha256(_) => self.by_digest.get(&file.digest),
            Digest::GitSha1(_) => self.by_name.get(&(file.save_as.clone(), file.size)),
        };
        let ours = ours.into_iter().flatten().map(|path| Candidate { path: path.clone(), is_ours: true });
        let blobs = self.hf_cache.iter().flat_map(|hf_cache| hf_cache.blobs(&file.digest));
        ours.chain(blobs.map(|path| Candidate { path, is_ours: false })).collect()
    }
}

/// Copies or links the plan's files that are on this machine into the incoming folder.
///
/// # Errors
///
/// INSUFFICIENT_DISK, INTERNAL.
pub(crate) async fn files(
    context: &Context,
    job: &mut JobState,
    plan: &DownloadPlan,
    workspace: &Workspace,
) -> Result<(), ServiceError> {
    let Workspace { incoming, writers } = workspace;
    let failed = |error: &io::Error| from_disk(&plan.repo, "reusing a file", error);
    incoming.create().map_err(|error| failed(&error))?;
    let missing: Vec<PlannedFile> =
        plan.files.iter().filter(|file| !is_present(incoming, file)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (models_dir, hf_cache) = (context.models_dir.clone(), context.hf_cache.clone());
    let local = tokio::task::spawn_blocking(move || LocalFiles::read(&models_dir, hf_cache.as_ref())).await;
    let local = local.map_err(ServiceError::internal)?.map_err(|error| failed(&error))?;
    for file in missing {
        for candidate in local.candidates(&file) {
            let copy = LocalCopy::new(candidate, &file.save_as, (file.size, file.digest), incoming);
            if copy.run(&mut job.reporter, writers).await.map_err(|error| failed(&error))? {
                break;
            }
        }
    }
    Ok(())
}

fn is_present(incoming: &Incoming, file: &PlannedFile) -> bool {
    fs::metadata(incoming.path().join(&file.save_as)).is_ok_and(|there| there.len() == file.size)
}

/// Copies the whole model from a folder where the same model was made before: by another catalog, or by ours before
/// its database was lost. The copies are links, so that each model can be removed without the other. Returns `None`
/// when there is no such folder.
///
/// # Errors
///
/// INSUFFICIENT_DISK, INTERNAL.
pub(crate) async fn identical_model(
    context: &Context,
    job: &mut JobState,
    workspace: &Workspace,
) -> Result<Option<BuildRecord>, ServiceError> {
    let Workspace { incoming, writers } = workspace;
    let repo = job.row.repo_id.clone();
    let failed = |error: &io::Error| from_disk(&repo, "reusing a model", error);
    let (models_dir, wanted, keep_source) = (context.models_dir.clone(), job.row.clone(), job.keep_source);
    let found = tokio::task::spawn_blocking(move || find_identical(&models_dir, &wanted, keep_source)).await;
    let found = found.map_err(ServiceError::internal)?.map_err(|error| failed(&error))?;
    let Some((folder, manifest, files)) = found else { return Ok(None) };
    incoming.create().map_err(|error| failed(&error))?;
    for file in &files {
        let name = file.path.as_str();
        let from = Candidate { path: folder.join(name), is_ours: true };
        let copy = LocalCopy::new(from, name, (file.size, file.digest), incoming);
        if !copy.run(&mut job.reporter, writers).await.map_err(|error| failed(&error))? {
            return Ok(None);
        }
    }
    let sizes: Vec<_> = files.iter().map(|file| (file.path.to_string(), file.size)).collect();
    let meters = job.reporter.transfer(&sizes, StageShares::TRANSFER_ONLY);
    for (meter, (_, size)) in meters.iter().zip(&sizes) {
        meter.resume_from(*size);
        meter.verified(*size);
    }
    job.reporter.tick();
    let known_digests = files.into_iter().map(|file| (file.path.to_string(), file.digest)).collect();
    Ok(Some(BuildRecord::copied(&manifest, known_digests)))
}

type FoundModel = (PathBuf, Manifest, Vec<ManifestFile>);

fn find_identical(models_dir: &ModelsDir, row: &Model, keep_source: bool) -> io::Result<Option<FoundModel>> {
    if row.commit.is_empty() {
        return Ok(None);
    }
    for folder in models_dir.finished()? {
        let manifest = Manifest::read_complete(&folder).filter(|manifest| manifest.is_identical_to(row));
        let Some(manifest) = manifest else { continue };
        let (sources, mut files): (Vec<_>, Vec<_>) =
            manifest.files().into_iter().partition(|file| file.path.as_str().starts_with(SOURCE_FOLDER));
        let has_source = !sources.is_empty() || manifest.actual_quantization() == Quantization::Native;
        if keep_source {
            files.extend(sources);
        }
        if has_source || !keep_source {
            return Ok(Some((folder, manifest, files)));
        }
    }
    Ok(None)
}

/// One file that is linked or copied from elsewhere on this machine.
#[derive(Debug, Clone)]
struct LocalCopy {
    from: Candidate,
    size: u64,
    digest: Digest,
    /// The temporary name.
    unverified: PathBuf,
    destination: PathBuf,
    /// Set when the future of [`Self::run`] is dropped.
    cancelled: CancellationToken,
    /// Bytes that are hashed.
    hashed: Arc<AtomicU64>,
}

impl LocalCopy {
    fn new(from: Candidate, name: &str, (size, digest): (u64, Digest), incoming: &Incoming) -> Self {
        Self {
            from,
            size,
            digest,
            unverified: incoming.partials().join(format!("{}.taken", name.replace('/', "_"))),
            destination: incoming.path().join(name),
            cancelled: CancellationToken::new(),
            hashed: Arc::default(),
        }
    }

    /// Returns whether the candidate had the right content. Only errors of our own disk are errors.
    async fn run(self, reporter: &mut Reporter, writers: &TaskTracker) -> io::Result<bool> {
        let _cancel_on_drop = self.cancelled.clone().drop_guard();
        let (size, hashed) = (self.size.max(1), Arc::clone(&self.hashed));
        let name = self.destination.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut work = writers.spawn_blocking(move || self.copy_checked());
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                done = &mut work => return done.map_err(io::Error::other)?,
                _ = ticks.tick() => {
                    let percent = hashed.load(Relaxed) * 100 / size;
                    reporter.stage(State::Resolving, &format!("checking {name}, which is here already: {percent} %"));
                }
            }
        }
    }

    fn copy_checked(&self) -> io::Result<bool> {
        match self.try_copy() {
            Ok(true) => {
                tracing::info!(from = %self.from.path.display(), bytes = self.size, "file reused, not fetched");
                Ok(true)
            }
            Ok(false) => ignore_not_found(fs::remove_file(&self.unverified)).map(|()| false),
            Err(error) if is_disk_full(&error) => {
                ignore_not_found(fs::remove_file(&self.unverified))?;
                Err(error)
            }
            Err(error) => {
                tracing::warn!(from = %self.from.path.display(), %error, "file cannot be reused");
                ignore_not_found(fs::remove_file(&self.unverified)).map(|()| false)
            }
        }
    }

    fn try_copy(&self) -> io::Result<bool> {
        let from = &self.from;
        let metadata =
            if from.is_ours { fs::symlink_metadata(&from.path)? } else { fs::metadata(&from.path)? };
        if !metadata.is_file() || metadata.len() != self.size {
            return Ok(false);
        }
        ignore_not_found(fs::remove_file(&self.unverified))?;
        let linked = from.is_ours
            && self.size > SMALL_FILE_BYTES
            && fs::hard_link(&from.path, &self.unverified).is_ok();
        if !linked {
            self.copy_bytes()?;
        }
        if self.hash()? != Some(self.digest) {
            if !self.cancelled.is_cancelled() {
                tracing::warn!(from = %from.path.display(), "file not reused: its content differs from its name");
            }
            return Ok(false);
        }
        File::open(&self.unverified)?.sync_all()?;
        if let Some(folder) = self.destination.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(&self.unverified, &self.destination)?;
        Ok(true)
    }

    fn copy_bytes(&self) -> io::Result<()> {
        let (from, mut to) = (File::open(&self.from.path)?, File::create(&self.unverified)?);
        while !self.cancelled.is_cancelled() && io::copy(&mut (&from).take(COPY_BYTES), &mut to)? > 0 {}
        Ok(())
    }

    /// Returns the digest of the copy, or `None` when it was cancelled.
    fn hash(&self) -> io::Result<Option<Digest>> {
        let mut file = File::open(&self.unverified)?;
        let mut hasher = self.digest.hasher(self.size);
        let mut buffer = vec![0; BUFFER_BYTES];
        while !self.cancelled.is_cancelled() {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(Some(hasher.finish()));
            }
            hasher.update(&buffer[..read]);
            self.hashed.fetch_add(read as u64, Relaxed);
        }
        Ok(None)
    }
}
