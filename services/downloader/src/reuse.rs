//! Files that are on this machine already: checked, then linked or copied instead of fetched.
//!
//! They are looked for in our own models (by whatever catalogue they were made) and in the cache of Hugging Face's
//! tools. A file is taken under a name of its own beside the partials, hashed there, synced, and only then named: what
//! was hashed is what is used.
//!
//! Ours are linked where they are large: we never write into a finished file, so that two models can share its bytes.
//! Small ones are copied, because people do edit a config.json. From others' caches everything is copied: they may
//! change or damage a file in place, and through a link that would be ours. Where the file system can share blocks
//! (btrfs, XFS, APFS) a copy costs neither time nor room; copy_file_range sees to that.

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
    cache::{Cache, Incoming, absent_is_fine},
    context::Context,
    digest::Digest,
    error::{is_disk_full, of_disk},
    fetch::SOURCE_FOLDER,
    hub_cache::HubCache,
    meta::{KeptFile, Making, Meta},
    plan::{Plan, PlannedFile},
    policy::SMALL_FILE_BYTES,
    progress::{Reporter, Shares},
};

const BUFFER_BYTES: usize = 1 << 20;
/// Copied between two looks at whether anybody still wants it.
const COPY_BYTES: u64 = 64 << 20;
const TICK: Duration = Duration::from_millis(250);

/// A file that may be the one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    ours: bool,
}

/// All that could be used again.
#[derive(Debug, Default)]
pub struct Shelf {
    by_digest: HashMap<Digest, Vec<PathBuf>>,
    /// Small files: the hub names them by another hash than we do.
    by_name: HashMap<(String, u64), Vec<PathBuf>>,
    hub_cache: Option<HubCache>,
}

impl Shelf {
    /// Looks through the models folder. Blocks.
    pub fn open(cache: &Cache, hub_cache: Option<&HubCache>) -> io::Result<Self> {
        let mut shelf = Self { hub_cache: hub_cache.cloned(), ..Self::default() };
        for folder in cache.finished()? {
            // One that has lost files may still have others.
            for file in Meta::read(&folder).iter().flat_map(Meta::files) {
                let path = folder.join(file.path.as_str());
                let name = file.path.as_str().rsplit('/').next().unwrap_or_default().to_owned();
                shelf.by_digest.entry(file.digest).or_default().push(path.clone());
                shelf.by_name.entry((name, file.size)).or_default().push(path);
            }
        }
        Ok(shelf)
    }

    fn candidates(&self, file: &PlannedFile) -> Vec<Candidate> {
        let ours = match file.digest {
            Digest::Sha256(_) => self.by_digest.get(&file.digest),
            Digest::GitSha1(_) => self.by_name.get(&(file.save_as.clone(), file.size)),
        };
        let ours = ours.into_iter().flatten().map(|path| Candidate { path: path.clone(), ours: true });
        let blobs = self.hub_cache.iter().flat_map(|cache| cache.blobs(&file.digest));
        ours.chain(blobs.map(|path| Candidate { path, ours: false })).collect()
    }
}

/// Puts into `incoming` what of the plan's files is on this machine already.
pub async fn adopt(
    context: &Context,
    plan: &Plan,
    incoming: &Incoming,
    reporter: &mut Reporter,
    writers: &TaskTracker,
) -> Result<(), ServiceError> {
    let failed = |error: &io::Error| of_disk(&plan.repo, "using a file again", error);
    incoming.create().map_err(|error| failed(&error))?;
    let missing: Vec<PlannedFile> =
        plan.files.iter().filter(|file| !is_there(incoming, file)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (cache, hub_cache) = (context.cache.clone(), context.hub_cache.clone());
    let shelf = tokio::task::spawn_blocking(move || Shelf::open(&cache, hub_cache.as_ref())).await;
    let shelf = shelf.map_err(ServiceError::internal)?.map_err(|error| failed(&error))?;
    for file in missing {
        for candidate in shelf.candidates(&file) {
            let taking = Taking::new(candidate, &file.save_as, (file.size, file.digest), incoming);
            if taking.run(reporter, writers).await.map_err(|error| failed(&error))? {
                break;
            }
        }
    }
    Ok(())
}

fn is_there(incoming: &Incoming, file: &PlannedFile) -> bool {
    fs::metadata(incoming.path().join(&file.save_as)).is_ok_and(|there| there.len() == file.size)
}

/// The whole model, where the same was made before: by another catalogue on this folder, or by ours before its
/// database was lost. Linked, not shared: either can be removed without the other.
pub async fn adopt_twin(
    context: &Context,
    row: &Model,
    keep_source: bool,
    incoming: &Incoming,
    reporter: &mut Reporter,
    writers: &TaskTracker,
) -> Result<Option<Making>, ServiceError> {
    let failed = |error: &io::Error| of_disk(&row.repo_id, "using a model again", error);
    let (cache, wanted) = (context.cache.clone(), row.clone());
    let twin = tokio::task::spawn_blocking(move || find_twin(&cache, &wanted, keep_source)).await;
    let twin = twin.map_err(ServiceError::internal)?.map_err(|error| failed(&error))?;
    let Some((folder, meta, files)) = twin else { return Ok(None) };
    incoming.create().map_err(|error| failed(&error))?;
    for file in &files {
        let name = file.path.as_str();
        let from = Candidate { path: folder.join(name), ours: true };
        let taking = Taking::new(from, name, (file.size, file.digest), incoming);
        if !taking.run(reporter, writers).await.map_err(|error| failed(&error))? {
            return Ok(None);
        }
    }
    let sizes: Vec<_> = files.iter().map(|file| (file.path.to_string(), file.size)).collect();
    for (meter, (_, size)) in reporter.transfer(&sizes, Shares::TRANSFER_ONLY).iter().zip(&sizes) {
        meter.resume_from(*size);
        meter.verified(*size);
    }
    reporter.tick();
    let known = files.into_iter().map(|file| (file.path.to_string(), file.digest)).collect();
    Ok(Some(Making::again(&meta, known)))
}

type Twin = (PathBuf, Meta, Vec<KeptFile>);

fn find_twin(cache: &Cache, row: &Model, keep_source: bool) -> io::Result<Option<Twin>> {
    if row.commit.is_empty() {
        return Ok(None);
    }
    for folder in cache.finished()? {
        let Some(meta) = Meta::of(&folder).filter(|meta| meta.is_twin_of(row)) else { continue };
        let (sources, mut files): (Vec<_>, Vec<_>) =
            meta.files().into_iter().partition(|file| file.path.as_str().starts_with(SOURCE_FOLDER));
        let has_source = !sources.is_empty() || meta.actual_quantization() == Quantization::Native;
        if keep_source {
            files.extend(sources);
        }
        if has_source || !keep_source {
            return Ok(Some((folder, meta, files)));
        }
    }
    Ok(None)
}

/// One file on its way from where it is to where it is wanted.
#[derive(Debug, Clone)]
struct Taking {
    from: Candidate,
    size: u64,
    digest: Digest,
    beside: PathBuf,
    destination: PathBuf,
    /// Nobody waits for it any more.
    given_up: CancellationToken,
    checked: Arc<AtomicU64>,
}

impl Taking {
    fn new(from: Candidate, name: &str, (size, digest): (u64, Digest), incoming: &Incoming) -> Self {
        Self {
            from,
            size,
            digest,
            beside: incoming.partials().join(format!("{}.taken", name.replace('/', "_"))),
            destination: incoming.path().join(name),
            given_up: CancellationToken::new(),
            checked: Arc::default(),
        }
    }

    /// Whether it was the right file. Errors only with those of our own disk.
    async fn run(self, reporter: &mut Reporter, writers: &TaskTracker) -> io::Result<bool> {
        let _until_dropped = self.given_up.clone().drop_guard();
        let (size, checked) = (self.size.max(1), Arc::clone(&self.checked));
        let name = self.destination.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut work = writers.spawn_blocking(move || self.take());
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                done = &mut work => return done.map_err(io::Error::other)?,
                _ = ticks.tick() => {
                    let percent = checked.load(Relaxed) * 100 / size;
                    reporter.stage(State::Resolving, &format!("checking {name}, which is here already: {percent} %"));
                }
            }
        }
    }

    fn take(&self) -> io::Result<bool> {
        match self.try_take() {
            Ok(true) => {
                tracing::info!(from = %self.from.path.display(), bytes = self.size, "used again, not fetched");
                Ok(true)
            }
            Ok(false) => absent_is_fine(fs::remove_file(&self.beside)).map(|()| false),
            Err(error) if is_disk_full(&error) => {
                absent_is_fine(fs::remove_file(&self.beside))?;
                Err(error)
            }
            Err(error) => {
                tracing::warn!(from = %self.from.path.display(), %error, "cannot be used again");
                absent_is_fine(fs::remove_file(&self.beside)).map(|()| false)
            }
        }
    }

    fn try_take(&self) -> io::Result<bool> {
        let from = &self.from;
        let there = if from.ours { fs::symlink_metadata(&from.path)? } else { fs::metadata(&from.path)? };
        if !there.is_file() || there.len() != self.size {
            return Ok(false);
        }
        absent_is_fine(fs::remove_file(&self.beside))?;
        let linked =
            from.ours && self.size > SMALL_FILE_BYTES && fs::hard_link(&from.path, &self.beside).is_ok();
        if !linked {
            self.copy()?;
        }
        if self.hash()? != Some(self.digest) {
            if !self.given_up.is_cancelled() {
                tracing::warn!(from = %from.path.display(), "is not what its name says: not used");
            }
            return Ok(false);
        }
        File::open(&self.beside)?.sync_all()?;
        if let Some(folder) = self.destination.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(&self.beside, &self.destination)?;
        Ok(true)
    }

    fn copy(&self) -> io::Result<()> {
        let (from, mut to) = (File::open(&self.from.path)?, File::create(&self.beside)?);
        while !self.given_up.is_cancelled() && io::copy(&mut (&from).take(COPY_BYTES), &mut to)? > 0 {}
        Ok(())
    }

    /// `None` when given up.
    fn hash(&self) -> io::Result<Option<Digest>> {
        let mut file = File::open(&self.beside)?;
        let mut hasher = self.digest.hasher(self.size);
        let mut buffer = vec![0; BUFFER_BYTES];
        while !self.given_up.is_cancelled() {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(Some(hasher.finish()));
            }
            hasher.update(&buffer[..read]);
            self.checked.fetch_add(read as u64, Relaxed);
        }
        Ok(None)
    }
}
