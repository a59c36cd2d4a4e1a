//! The inspection of a repository at a pinned commit, before weights are fetched: its files, its configuration, the
//! headers of its weights, and whether they make a supported model.

use futures::{StreamExt as _, TryStreamExt as _};
use millm_kit::{Secret, ServiceError, names::RepoId};
use millm_model::{
    HeaderPrefix, ModelSpec, RopeFactors, TensorInfo,
    checkpoint::{check_count, tensors_in_gguf, tensors_in_safetensors},
    gguf::GgufHeader,
    safetensors::{SafetensorsHeader, ShardIndex},
};
use tokio::sync::Semaphore;

use super::select::{self, Selection, Weights};
use crate::{
    error::from_model,
    hub::{
        api_types::{RemoteFile, RepoInfo},
        client::{FileAt, Hub},
        path::RepoPath,
    },
};

const MAX_CONFIG_BYTES: u64 = 4 << 20;
const MAX_INDEX_BYTES: u64 = 16 << 20;
/// The first part of a file that is read for its header. Most headers fit in it.
const HEADER_GUESS_BYTES: u64 = 256 << 10;
const HEADERS_AT_ONCE: usize = 8;
/// Headers over this size are read one at a time, because they may have a hundred megabytes each.
const LARGE_HEADER_BYTES: u64 = 8 << 20;

/// The repository and the files that a request asks for.
#[derive(Debug, Clone)]
pub(crate) struct RepoQuery<'a> {
    pub(crate) repo: &'a RepoId,
    pub(crate) revision: &'a str,
    pub(crate) selection: Selection<'a>,
    pub(crate) token: Option<&'a Secret>,
}

/// The content of a repository.
#[derive(Debug, Clone)]
pub(crate) struct Inspection {
    pub(crate) info: RepoInfo,
    pub(crate) tree: Vec<RemoteFile>,
    pub(crate) weights: Weights,
    /// The files to fetch.
    pub(crate) files: Vec<RemoteFile>,
    /// `model.safetensors.index.json`, where the weights are in shards.
    pub(crate) index: Option<String>,
    /// `config.json`.
    pub(crate) config: Option<String>,
    pub(crate) generation_config: Option<String>,
    /// The header of a GGUF file.
    pub(crate) gguf: Option<std::sync::Arc<GgufHeader>>,
}

impl Inspection {
    /// Inspects a repository on the hub.
    ///
    /// # Errors
    ///
    /// The hub's errors; INVALID_ARGUMENT when the selection matches nothing; INVALID_MODEL_FILE when there are no usable
    /// weights or a file's name is dangerous.
    pub(crate) async fn of_hub(hub: &Hub, query: &RepoQuery<'_>) -> Result<Self, ServiceError> {
        let info = hub.info(query.repo, query.revision, query.token).await?;
        if let Some(token) = query.token.filter(|_| info.gated) {
            // Everybody may read a gated repository's description, so its answer says nothing about the token.
            hub.check_token(token).await?;
        }
        let tree = hub.tree(&info.repo, &info.commit, query.token).await?;
        let weights = select::weights(&tree, query.selection)?;
        let reader =
            FileReader { hub, info: &info, tree: &tree, token: query.token, large: Semaphore::new(1) };
        let index = match &weights {
            Weights::Sharded { index } => reader.text(index.as_str(), MAX_INDEX_BYTES).await?,
            _ => None,
        };
        let files = select::files(&tree, &weights, index.as_deref())?;
        let (mut config, mut generation_config, mut gguf) = (None, None, None);
        if let Weights::Gguf { file } = &weights {
            gguf = Some(std::sync::Arc::new(reader.gguf_header(file).await?));
        } else {
            let folder = weights.folder();
            config = reader.text(&format!("{folder}config.json"), MAX_CONFIG_BYTES).await?;
            let name = format!("{folder}generation_config.json");
            generation_config = reader.text(&name, MAX_CONFIG_BYTES).await?;
        }
        Ok(Self { info, tree, weights, files, index, config, generation_config, gguf })
    }

    /// Returns the model's dimensions.
    ///
    /// # Errors
    ///
    /// UNSUPPORTED_ARCHITECTURE, INVALID_MODEL_FILE.
    pub(crate) fn spec(&self) -> Result<ModelSpec, ServiceError> {
        let spec = match (&self.gguf, &self.config) {
            (Some(header), _) => ModelSpec::from_gguf(header, &RopeFactors::unread(header)),
            (None, Some(config)) => ModelSpec::from_config_json(config, self.generation_config.as_deref()),
            (None, None) => return Err(ServiceError::invalid_model_file("config.json", "is missing")),
        };
        spec.map_err(|error| from_model(self.info.repo.as_str(), error))
    }

    /// Returns whether the repository asks to run its own code.
    pub(crate) fn requires_custom_code(&self) -> bool {
        self.config.as_deref().is_some_and(millm_model::requires_custom_code)
    }

    /// Returns the model's dimensions if it may be downloaded.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::spec`]; REMOTE_CODE_REQUIRED if the repository asks to run its own code and
    /// `trust_remote_code` is not set.
    pub(crate) fn allowed_spec(&self, trust_remote_code: bool) -> Result<ModelSpec, ServiceError> {
        let spec = self.spec()?;
        if self.requires_custom_code() {
            if !trust_remote_code {
                return Err(ServiceError::remote_code_required(&self.info.repo, &spec.architecture));
            }
            tracing::info!(repo = %self.info.repo, "custom code was allowed; the native implementation is used");
        }
        Ok(spec)
    }

    /// Returns the bytes to fetch.
    pub(crate) fn download_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }

    /// Returns the bytes of the files that stay beside quantized weights.
    pub(crate) fn sidecar_bytes(&self) -> u64 {
        let is_weights = |file: &&RemoteFile| {
            [".safetensors", ".gguf", ShardIndex::FILE].iter().any(|end| file.path.as_str().ends_with(end))
        };
        self.files.iter().filter(|file| !is_weights(file)).map(|file| file.size).fold(0, u64::saturating_add)
    }

    /// Returns the file's name relative to the model's folder.
    pub(crate) fn name<'a>(&self, file: &'a RemoteFile) -> &'a str {
        let path = file.path.as_str();
        path.strip_prefix(self.weights.folder()).unwrap_or(path)
    }

    /// Reads the headers of the weights. A GGUF header is here already.
    ///
    /// # Errors
    ///
    /// The hub's errors, INVALID_MODEL_FILE.
    pub(crate) async fn headers(
        &self,
        hub: &Hub,
        token: Option<&Secret>,
    ) -> Result<WeightHeaders, ServiceError> {
        if let (Some(header), Weights::Gguf { file }) = (&self.gguf, &self.weights) {
            return Ok(WeightHeaders::Gguf { file: file.to_string(), header: std::sync::Arc::clone(header) });
        }
        let large = Semaphore::new(1);
        let reader = FileReader { hub, info: &self.info, tree: &self.tree, token, large };
        let shards = self.files.iter().filter(|file| file.path.as_str().ends_with(".safetensors"));
        let (names, requests): (Vec<_>, Vec<_>) =
            shards.map(|file| (self.name(file).to_owned(), reader.safetensors_header(file))).unzip();
        let mut coming = futures::stream::iter(requests).buffered(HEADERS_AT_ONCE);
        let (mut headers, mut count) = (Vec::new(), 0);
        while let Some(header) = coming.try_next().await? {
            count += header.tensors.len();
            check_count(count).map_err(|error| from_model(self.info.repo.as_str(), error))?;
            headers.push(header);
        }
        Ok(WeightHeaders::Safetensors { names, headers, index: self.index.clone() })
    }
}

/// The headers of the weights, without data.
#[derive(Debug)]
pub(crate) enum WeightHeaders {
    Safetensors { names: Vec<String>, headers: Vec<SafetensorsHeader>, index: Option<String> },
    Gguf { file: String, header: std::sync::Arc<GgufHeader> },
}

impl WeightHeaders {
    /// Returns the tensors that the decoder reads, as it would find them after the download.
    ///
    /// # Errors
    ///
    /// INVALID_MODEL_FILE.
    pub(crate) fn tensors(self, spec: &ModelSpec, name: &str) -> Result<Vec<TensorInfo>, ServiceError> {
        let read = match self {
            Self::Safetensors { names, headers, index } => {
                let index = index.as_deref().map(ShardIndex::parse).transpose();
                index.and_then(|index| tensors_in_safetensors(spec, &names, headers, index.as_ref()))
            }
            Self::Gguf { file, header } => tensors_in_gguf(spec, &file, &header),
        };
        read.map_err(|error| from_model(name, error))
    }

    /// Returns the number of elements in all tensors, whether or not the decoder reads them.
    pub(crate) fn elements(&self) -> u64 {
        let shapes: Vec<&[usize]> = match self {
            Self::Safetensors { headers, .. } => headers
                .iter()
                .flat_map(|header| &header.tensors)
                .map(|tensor| tensor.shape.as_slice())
                .collect(),
            Self::Gguf { header, .. } => {
                header.tensors.iter().map(|tensor| tensor.shape.as_slice()).collect()
            }
        };
        let of = |shape: &[usize]| shape.iter().fold(1_u64, |n, size| n.saturating_mul(*size as u64));
        shapes.into_iter().map(of).fold(0, u64::saturating_add)
    }
}

/// Returns the tensors that the decoder reads of a model of this spec, in the types that such models are published in.
/// Estimates use them where no header was read.
pub(crate) fn expected_tensors(spec: &ModelSpec) -> Vec<TensorInfo> {
    let tensors = spec.expected_tensors().into_iter().filter_map(|tensor| {
        let ty = spec.published_type(&tensor);
        let bytes = ty.bytes_for(&tensor.shape)?;
        Some(TensorInfo { name: tensor.name, ty, shape: tensor.shape, bytes })
    });
    tensors.collect()
}

/// Reads small files and headers of one repository.
struct FileReader<'a> {
    hub: &'a Hub,
    info: &'a RepoInfo,
    tree: &'a [RemoteFile],
    token: Option<&'a Secret>,
    /// Held during the read of a large header.
    large: Semaphore,
}

impl FileReader<'_> {
    fn at<'b>(&'b self, path: &'b RepoPath) -> FileAt<'b> {
        FileAt { repo: &self.info.repo, commit: &self.info.commit, path, token: self.token }
    }

    /// Reads a small file and checks its digest. Returns `None` when the repository has no such file.
    async fn text(&self, name: &str, most: u64) -> Result<Option<String>, ServiceError> {
        let Some(file) = self.tree.iter().find(|file| file.path.as_str() == name) else { return Ok(None) };
        if file.size > most {
            return Err(ServiceError::invalid_model_file(name, format!("is longer than {most} bytes")));
        }
        let mut got = None;
        // One damaged answer may be chance.
        for _ in 0..2 {
            let bytes = self.hub.read(self.at(&file.path), most).await?;
            let mut hasher = file.digest.hasher(file.size);
            hasher.update(&bytes);
            let digest = hasher.finish();
            if digest == file.digest {
                let text = String::from_utf8(bytes);
                return text.map(Some).map_err(|_| ServiceError::invalid_model_file(name, "is not UTF-8"));
            }
            got = Some(digest);
        }
        let got = got.map(|digest| digest.hex()).unwrap_or_default();
        Err(ServiceError::checksum_mismatch(name, file.digest.hex(), got))
    }

    async fn safetensors_header(&self, file: &RemoteFile) -> Result<SafetensorsHeader, ServiceError> {
        self.header(file, SafetensorsHeader::parse).await
    }

    async fn gguf_header(&self, path: &RepoPath) -> Result<GgufHeader, ServiceError> {
        let file = self.tree.iter().find(|file| file.path == *path);
        let file = file.ok_or_else(|| ServiceError::invalid_model_file(path, "is missing"))?;
        self.header(file, GgufHeader::parse).await
    }

    /// Reads as much of a file's start as its header needs. `parse` gets name, bytes and the file's size.
    async fn header<T: Send + 'static>(
        &self,
        file: &RemoteFile,
        parse: fn(&str, &[u8], u64) -> millm_model::Result<HeaderPrefix<T>>,
    ) -> Result<T, ServiceError> {
        // Only a part is read even of a small file: the download fetches it later.
        let mut want = HEADER_GUESS_BYTES.min(file.size.div_ceil(4));
        let mut turn = None;
        loop {
            if want > LARGE_HEADER_BYTES && turn.is_none() {
                turn = Some(self.large.acquire().await.map_err(ServiceError::internal)?);
            }
            let bytes = self.hub.read_start(self.at(&file.path), want).await?;
            if (bytes.len() as u64) < want {
                return Err(ServiceError::invalid_model_file(&file.path, "is shorter than the hub says"));
            }
            let (name, size) = (file.path.to_string(), file.size);
            let parsed = tokio::task::spawn_blocking(move || parse(&name, &bytes, size));
            let parsed = parsed.await.map_err(ServiceError::internal)?;
            match parsed.map_err(|error| from_model(self.info.repo.as_str(), error))? {
                HeaderPrefix::Complete(header) => return Ok(header),
                // At least doubled: a hostile header could ask for a little more each time.
                HeaderPrefix::NeedMore(more) => {
                    let next = more.max(want.saturating_mul(2)).min(file.size);
                    if next <= want || more > file.size {
                        return Err(ServiceError::invalid_model_file(&file.path, "has a broken header"));
                    }
                    want = next;
                }
            }
        }
    }
}
