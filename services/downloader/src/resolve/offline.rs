//! The inspection of a repository without the hub: from copies on this machine, at the commit that they have.
//!
//! Every file of a copy is hashed before it is used, by the phase that reuses it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use millm_kit::{
    Reason, ServiceError,
    names::{RepoId, is_commit},
};
use millm_model::{HeaderPrefix, gguf::GgufHeader};

use super::{
    inspect::{Inspection, RepoQuery},
    select::{self, Selection, Weights},
};
use crate::{
    context::Context,
    error::from_model,
    hub::{
        api_types::{RemoteFile, RepoInfo},
        path::RepoPath,
    },
    store::{
        hf_cache::HfCache,
        manifest::Manifest,
        models_dir::{ModelsDir, QUANTIZED_FILE, SOURCE_FOLDER},
    },
};

const MAX_TEXT_BYTES: u64 = 16 << 20;
const HEADER_GUESS_BYTES: u64 = 1 << 20;

/// A copy without any of these files is incomplete: the model would have no tokenizer.
const TOKENIZERS: &[&str] = &["tokenizer.json", "tokenizer.model", "vocab.json"];

/// Inspects a repository on the hub, or a complete copy on this machine when the hub does not answer.
///
/// # Errors
///
/// The errors of [`Inspection::of_hub`].
pub(crate) async fn inspect(context: &Context, query: &RepoQuery<'_>) -> Result<Inspection, ServiceError> {
    let error = match Inspection::of_hub(&context.hub, query).await {
        Err(error) if matches!(error.reason, Reason::HubUnavailable | Reason::ModelDownloadFailed) => error,
        other => return other,
    };
    let (models_dir, hf_cache) = (context.models_dir.clone(), context.hf_cache.clone());
    let (repo, revision) = (query.repo.clone(), query.revision.to_owned());
    let Selection { file, variant, subfolder, quantization } = query.selection;
    let (file, variant, subfolder) = (file.to_owned(), variant.to_owned(), subfolder.to_owned());
    let found = tokio::task::spawn_blocking(move || {
        let selection = Selection { file: &file, variant: &variant, subfolder: &subfolder, quantization };
        let cached =
            hf_cache.as_ref().and_then(|hf_cache| LocalRepo::from_hf_cache(hf_cache, &repo, &revision));
        let ours = || LocalRepo::from_models_dir(&models_dir, &repo, &revision);
        cached.into_iter().chain(ours().unwrap_or_default()).find_map(|copy| copy.inspect(selection))
    });
    match found.await.map_err(ServiceError::internal)? {
        Some(inspection) => {
            let (repo, commit) = (query.repo, &inspection.info.commit);
            tracing::warn!(%repo, commit, why = error.message, "the hub does not answer: using a local copy");
            Ok(inspection)
        }
        None => Err(error),
    }
}

/// The files of a commit that are on this machine, each with its path on the disk.
struct LocalRepo {
    repo: RepoId,
    commit: String,
    files: Vec<(RemoteFile, PathBuf)>,
}

impl LocalRepo {
    fn from_hf_cache(hf_cache: &HfCache, repo: &RepoId, revision: &str) -> Option<Self> {
        let commit = hf_cache.commit(repo, revision)?;
        let files = hf_cache.snapshot(repo, &commit);
        Some(Self { repo: repo.clone(), commit, files })
    }

    /// Returns our models that keep published files, as weights or as sources beside quantized weights.
    fn from_models_dir(models_dir: &ModelsDir, repo: &RepoId, revision: &str) -> io::Result<Vec<Self>> {
        let folders = models_dir.finished()?.into_iter();
        let manifests = folders.filter_map(|folder| Some((Manifest::read_complete(&folder)?, folder)));
        let wanted = |manifest: &Manifest| {
            let known = if is_commit(revision) { &manifest.commit } else { &manifest.revision };
            manifest.repo_id.eq_ignore_ascii_case(repo.as_str())
                && known == revision
                && is_commit(&manifest.commit)
        };
        let copies = manifests.filter(|(manifest, _)| wanted(manifest)).filter_map(|(manifest, folder)| {
            let repo = RepoId::parse(&manifest.repo_id).ok()?;
            let files = manifest.files().into_iter().filter_map(|file| {
                let path = RepoPath::parse(&published_name(&manifest, file.path.as_str())?).ok()?;
                let place = folder.join(file.path.as_str());
                Some((RemoteFile { path, size: file.size, digest: file.digest }, place))
            });
            Some(Self { repo, files: files.collect(), commit: manifest.commit.clone() })
        });
        Ok(copies.collect())
    }

    /// Returns the inspection; `None` when the selected files are not complete.
    fn inspect(&self, selection: Selection<'_>) -> Option<Inspection> {
        let tree: Vec<RemoteFile> = self.files.iter().map(|(file, _)| file.clone()).collect();
        let weights = select::weights(&tree, selection).ok()?;
        let folder = weights.folder().to_owned();
        let text = |name: &str| self.text(&format!("{folder}{name}"));
        let index = match &weights {
            Weights::Sharded { index } => Some(self.text(index.as_str())?),
            _ => None,
        };
        let files = select::files(&tree, &weights, index.as_deref()).ok()?;
        let (mut config, mut generation_config, mut gguf) = (None, None, None);
        if let Weights::Gguf { file } = &weights {
            gguf = Some(Arc::new(self.gguf_header(file).ok()?));
        } else {
            let has = |name: &&str| self.place(&format!("{folder}{name}")).is_some();
            TOKENIZERS.iter().find(|name| has(name))?;
            config = Some(text("config.json")?);
            generation_config = text("generation_config.json");
        }
        let (repo, commit) = (self.repo.clone(), self.commit.clone());
        let info = RepoInfo { repo, commit, gated: false, license: None };
        Some(Inspection { info, tree, weights, files, index, config, generation_config, gguf })
    }

    fn place(&self, name: &str) -> Option<&(RemoteFile, PathBuf)> {
        self.files.iter().find(|(file, _)| file.path.as_str() == name)
    }

    /// Reads a small file and checks its digest.
    fn text(&self, name: &str) -> Option<String> {
        let (file, path) = self.place(name)?;
        let bytes = fs::read(path).ok().filter(|_| file.size <= MAX_TEXT_BYTES)?;
        let mut hasher = file.digest.hasher(file.size);
        hasher.update(&bytes);
        (hasher.finish() == file.digest).then(|| String::from_utf8(bytes).ok()).flatten()
    }

    fn gguf_header(&self, path: &RepoPath) -> Result<GgufHeader, ServiceError> {
        let gone = || ServiceError::invalid_model_file(path, "is missing");
        let (file, place) = self.place(path.as_str()).ok_or_else(gone)?;
        let mut want = HEADER_GUESS_BYTES.min(file.size);
        loop {
            let bytes = start_of(place, want).map_err(|_| gone())?;
            let parsed = GgufHeader::parse(path.as_str(), &bytes, file.size);
            match parsed.map_err(|error| from_model(self.repo.as_str(), error))? {
                HeaderPrefix::Complete(header) => return Ok(header),
                HeaderPrefix::NeedMore(more) if more > want && (bytes.len() as u64) == want => {
                    want = more.max(want.saturating_mul(2)).min(file.size);
                }
                HeaderPrefix::NeedMore(_) => {
                    return Err(ServiceError::invalid_model_file(path, "has a broken header"));
                }
            }
        }
    }
}

fn start_of(path: &Path, length: u64) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the name that a file of ours has in its repository; `None` for a file that was quantized here.
fn published_name(manifest: &Manifest, name: &str) -> Option<String> {
    if manifest.file.ends_with(".gguf") {
        return (name == QUANTIZED_FILE).then(|| manifest.file.clone());
    }
    let folder = manifest.file.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let name = name.strip_prefix(SOURCE_FOLDER).map_or(name, |kept| kept.trim_start_matches('/'));
    (name != QUANTIZED_FILE).then(|| format!("{folder}{name}"))
}
