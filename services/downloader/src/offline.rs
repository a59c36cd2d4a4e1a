//! When the hub gives no answer: a repository as copies on this machine have it, at the commit that they know.
//!
//! It is a survey like the hub's own; every file of it is hashed before it is used ([`crate::reuse`]).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use millm_kit::{Reason, ServiceError, names::RepoId};
use millm_model::headers::{GgufHeader, Prefix};

use crate::{
    cache::Cache,
    context::Context,
    error::of_model,
    fetch::SOURCE_FOLDER,
    hub::{RemoteFile, RepoInfo, RepoPath, is_commit},
    hub_cache::HubCache,
    meta::Meta,
    select::{self, Choice, Weights},
    survey::{Survey, Wish},
};

const MOST_TEXT_BYTES: u64 = 16 << 20;
const HEADER_GUESS_BYTES: u64 = 1 << 20;

/// Without one of them a model cannot be spoken to: a copy that lacks all is not a whole one.
const TOKENIZERS: &[&str] = &["tokenizer.json", "tokenizer.model", "vocab.json"];

/// What the hub says; where it says nothing, what a complete copy on this machine says.
pub async fn survey(context: &Context, wish: &Wish<'_>) -> Result<Survey, ServiceError> {
    let error = match Survey::take(&context.hub, wish).await {
        Err(error) if matches!(error.reason, Reason::HubUnavailable | Reason::ModelDownloadFailed) => error,
        other => return other,
    };
    let (cache, hub_cache) = (context.cache.clone(), context.hub_cache.clone());
    let (repo, revision) = (wish.repo.clone(), wish.revision.to_owned());
    let (file, variant, subfolder) =
        (wish.choice.file.to_owned(), wish.choice.variant.to_owned(), wish.choice.subfolder.to_owned());
    let quantization = wish.choice.quantization;
    let found = tokio::task::spawn_blocking(move || {
        let choice = Choice { file: &file, variant: &variant, subfolder: &subfolder, quantization };
        let theirs = hub_cache.as_ref().and_then(|cache| Copy::of_hub_cache(cache, &repo, &revision));
        let ours = || Copy::of_ours(&cache, &repo, &revision);
        theirs.into_iter().chain(ours().unwrap_or_default()).find_map(|copy| copy.survey(choice))
    });
    match found.await.map_err(ServiceError::internal)? {
        Some(survey) => {
            let (repo, commit) = (wish.repo, &survey.info.commit);
            tracing::warn!(%repo, commit, why = error.message, "the hub gives no answer: using the copy that is here");
            Ok(survey)
        }
        None => Err(error),
    }
}

/// A commit's files, as far as they are here.
struct Copy {
    repo: RepoId,
    commit: String,
    files: Vec<(RemoteFile, PathBuf)>,
}

impl Copy {
    fn of_hub_cache(cache: &HubCache, repo: &RepoId, revision: &str) -> Option<Self> {
        let commit = cache.commit(repo, revision)?;
        let files = cache.snapshot(repo, &commit);
        Some(Self { repo: repo.clone(), commit, files })
    }

    /// The models that keep published files: as they came, or beside what was made of them.
    fn of_ours(cache: &Cache, repo: &RepoId, revision: &str) -> io::Result<Vec<Self>> {
        let folders = cache.finished()?.into_iter();
        let metas = folders.filter_map(|folder| Some((Meta::of(&folder)?, folder)));
        let wanted = |meta: &Meta| {
            let known = if is_commit(revision) { &meta.commit } else { &meta.revision };
            meta.repo_id.eq_ignore_ascii_case(repo.as_str()) && known == revision && is_commit(&meta.commit)
        };
        let copies = metas.filter(|(meta, _)| wanted(meta)).filter_map(|(meta, folder)| {
            let repo = RepoId::parse(&meta.repo_id).ok()?;
            let files = meta.files().into_iter().filter_map(|file| {
                let path = RepoPath::parse(&published_name(&meta, file.path.as_str())?).ok()?;
                let place = folder.join(file.path.as_str());
                Some((RemoteFile { path, size: file.size, digest: file.digest }, place))
            });
            Some(Self { repo, files: files.collect(), commit: meta.commit.clone() })
        });
        Ok(copies.collect())
    }

    /// `None` when what is chosen is not here, or not all of it.
    fn survey(&self, choice: Choice<'_>) -> Option<Survey> {
        let tree: Vec<RemoteFile> = self.files.iter().map(|(file, _)| file.clone()).collect();
        let weights = select::weights(&tree, choice).ok()?;
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
        Some(Survey { info, tree, weights, files, index, config, generation_config, gguf })
    }

    fn place(&self, name: &str) -> Option<&(RemoteFile, PathBuf)> {
        self.files.iter().find(|(file, _)| file.path.as_str() == name)
    }

    /// A small file, checked.
    fn text(&self, name: &str) -> Option<String> {
        let (file, path) = self.place(name)?;
        let bytes = fs::read(path).ok().filter(|_| file.size <= MOST_TEXT_BYTES)?;
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
            match parsed.map_err(|error| of_model(self.repo.as_str(), error))? {
                Prefix::Complete(header) => return Ok(header),
                Prefix::NeedMore(more) if more > want && (bytes.len() as u64) == want => {
                    want = more.max(want.saturating_mul(2)).min(file.size);
                }
                Prefix::NeedMore(_) => {
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

/// What a file of ours was called in its repository; `None` for what we made ourselves.
fn published_name(meta: &Meta, name: &str) -> Option<String> {
    if meta.file.ends_with(".gguf") {
        return (name == "model.gguf").then(|| meta.file.clone());
    }
    let folder = meta.file.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let name = name.strip_prefix(SOURCE_FOLDER).map_or(name, |kept| kept.trim_start_matches('/'));
    (name != crate::quantize::FILE).then(|| format!("{folder}{name}"))
}
