//! What a repository holds at a pinned commit, and whether it can become a model: asked of the hub before any
//! weight is fetched.

use futures::{StreamExt as _, TryStreamExt as _};
use millm_kit::{Secret, ServiceError, names::RepoId};
use millm_model::{
    ModelSpec, TensorInfo,
    checkpoint::{check_count, tensors_in_gguf, tensors_in_safetensors},
    gguf::RopeFactors,
    headers::{GgufHeader, Prefix, SafetensorsHeader},
    safetensors::ShardIndex,
};
use tokio::sync::Semaphore;

use crate::{
    error::of_model,
    hub::{FileAt, Hub, RemoteFile, RepoInfo, RepoPath},
    select::{self, Choice, Weights},
};

const MOST_CONFIG_BYTES: u64 = 4 << 20;
const MOST_INDEX_BYTES: u64 = 16 << 20;
/// Most headers fit in it.
const HEADER_GUESS_BYTES: u64 = 256 << 10;
const HEADERS_AT_ONCE: usize = 8;
/// Headers over this are read one at a time: a hundred megabytes each are allowed.
const LARGE_HEADER_BYTES: u64 = 8 << 20;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wish<'a> {
    pub repo: &'a RepoId,
    pub revision: &'a str,
    pub choice: Choice<'a>,
    pub token: Option<&'a Secret>,
}

/// What is there.
#[derive(Debug, Clone)]
pub struct Survey {
    pub info: RepoInfo,
    pub tree: Vec<RemoteFile>,
    pub weights: Weights,
    /// Those to fetch.
    pub files: Vec<RemoteFile>,
    /// `model.safetensors.index.json`, where the weights are in shards.
    pub index: Option<String>,
    /// config.json.
    pub config: Option<String>,
    pub generation_config: Option<String>,
    /// Of a GGUF file.
    pub gguf: Option<std::sync::Arc<GgufHeader>>,
}

impl Survey {
    /// Errors: those of the hub (unknown, gated, bad token), no usable weights, a dangerous file name.
    pub async fn take(hub: &Hub, wish: &Wish<'_>) -> Result<Self, ServiceError> {
        let info = hub.info(wish.repo, wish.revision, wish.token).await?;
        if let Some(token) = wish.token.filter(|_| info.gated) {
            // A description is for everybody: that it came says nothing of the token.
            hub.check_token(token).await?;
        }
        let tree = hub.tree(&info.repo, &info.commit, wish.token).await?;
        let weights = select::weights(&tree, wish.choice)?;
        let reader = Reader { hub, info: &info, tree: &tree, token: wish.token, large: Semaphore::new(1) };
        let index = match &weights {
            Weights::Sharded { index } => reader.text(index.as_str(), MOST_INDEX_BYTES).await?,
            _ => None,
        };
        let files = select::files(&tree, &weights, index.as_deref())?;
        let (mut config, mut generation_config, mut gguf) = (None, None, None);
        if let Weights::Gguf { file } = &weights {
            gguf = Some(std::sync::Arc::new(reader.gguf_header(file).await?));
        } else {
            let folder = weights.folder();
            config = reader.text(&format!("{folder}config.json"), MOST_CONFIG_BYTES).await?;
            let name = format!("{folder}generation_config.json");
            generation_config = reader.text(&name, MOST_CONFIG_BYTES).await?;
        }
        Ok(Self { info, tree, weights, files, index, config, generation_config, gguf })
    }

    /// The model's dimensions. Errors: UNSUPPORTED_ARCHITECTURE, INVALID_MODEL_FILE.
    pub fn spec(&self) -> Result<ModelSpec, ServiceError> {
        let spec = match (&self.gguf, &self.config) {
            (Some(header), _) => ModelSpec::from_gguf(header, &RopeFactors::unread(header)),
            (None, Some(config)) => ModelSpec::from_config_json(config, self.generation_config.as_deref()),
            (None, None) => return Err(ServiceError::invalid_model_file("config.json", "is missing")),
        };
        spec.map_err(|error| of_model(self.info.repo.as_str(), error))
    }

    /// Whether the repository wants its own code to run.
    pub fn requires_custom_code(&self) -> bool {
        self.config.as_deref().is_some_and(millm_model::requires_custom_code)
    }

    /// The dimensions of a model that may be downloaded: REMOTE_CODE_REQUIRED unless agreed to.
    pub fn permitted_spec(&self, trust_remote_code: bool) -> Result<ModelSpec, ServiceError> {
        let spec = self.spec()?;
        if self.requires_custom_code() {
            if !trust_remote_code {
                return Err(ServiceError::remote_code_required(&self.info.repo, &spec.architecture));
            }
            tracing::info!(repo = %self.info.repo, "custom code was agreed to; the native implementation is used");
        }
        Ok(spec)
    }

    pub fn download_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }

    /// Of the files that stay beside weights that are made from the published ones.
    pub fn sidecar_bytes(&self) -> u64 {
        let weights = |file: &&RemoteFile| {
            [".safetensors", ".gguf", ShardIndex::FILE].iter().any(|end| file.path.as_str().ends_with(end))
        };
        self.files.iter().filter(|file| !weights(file)).map(|file| file.size).fold(0, u64::saturating_add)
    }

    /// As the model itself names the file, wherever in the repository the model lies.
    pub fn name<'a>(&self, file: &'a RemoteFile) -> &'a str {
        let path = file.path.as_str();
        path.strip_prefix(self.weights.folder()).unwrap_or(path)
    }

    /// What the weights' headers say of their tensors; a GGUF file's is here already.
    pub async fn headers(&self, hub: &Hub, token: Option<&Secret>) -> Result<Headers, ServiceError> {
        if let (Some(header), Weights::Gguf { file }) = (&self.gguf, &self.weights) {
            return Ok(Headers::Gguf { file: file.to_string(), header: std::sync::Arc::clone(header) });
        }
        let large = Semaphore::new(1);
        let reader = Reader { hub, info: &self.info, tree: &self.tree, token, large };
        let shards = self.files.iter().filter(|file| file.path.as_str().ends_with(".safetensors"));
        let (names, requests): (Vec<_>, Vec<_>) =
            shards.map(|file| (self.name(file).to_owned(), reader.safetensors_header(file))).unzip();
        let mut coming = futures::stream::iter(requests).buffered(HEADERS_AT_ONCE);
        let (mut headers, mut count) = (Vec::new(), 0);
        while let Some(header) = coming.try_next().await? {
            count += header.tensors.len();
            check_count(count).map_err(|error| of_model(self.info.repo.as_str(), error))?;
            headers.push(header);
        }
        Ok(Headers::Safetensors { names, headers, index: self.index.clone() })
    }
}

/// The weights' headers, read by ranges: no data.
#[derive(Debug)]
pub enum Headers {
    Safetensors { names: Vec<String>, headers: Vec<SafetensorsHeader>, index: Option<String> },
    Gguf { file: String, header: std::sync::Arc<GgufHeader> },
}

impl Headers {
    /// What the decoder reads of them, as it would find it once they are here. Errors: INVALID_MODEL_FILE.
    pub fn tensors(self, spec: &ModelSpec, name: &str) -> Result<Vec<TensorInfo>, ServiceError> {
        let read = match self {
            Self::Safetensors { names, headers, index } => {
                let index = index.as_deref().map(ShardIndex::parse).transpose();
                index.and_then(|index| tensors_in_safetensors(spec, &names, headers, index.as_ref()))
            }
            Self::Gguf { file, header } => tensors_in_gguf(spec, &file, &header),
        };
        read.map_err(|error| of_model(name, error))
    }

    /// Numbers in all tensors, read by us or not.
    pub fn elements(&self) -> u64 {
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

/// What the decoder reads of a model of this spec, of the types that models are published in: for estimates where no header
/// was read.
pub fn expected_tensors(spec: &ModelSpec) -> Vec<TensorInfo> {
    let tensors = spec.expected_tensors().into_iter().filter_map(|tensor| {
        let ty = spec.published_type(&tensor);
        let bytes = ty.bytes_for(&tensor.shape)?;
        Some(TensorInfo { name: tensor.name, ty, shape: tensor.shape, bytes })
    });
    tensors.collect()
}

struct Reader<'a> {
    hub: &'a Hub,
    info: &'a RepoInfo,
    tree: &'a [RemoteFile],
    token: Option<&'a Secret>,
    /// Held while a large header is read.
    large: Semaphore,
}

impl Reader<'_> {
    fn at<'b>(&'b self, path: &'b RepoPath) -> FileAt<'b> {
        FileAt { repo: &self.info.repo, commit: &self.info.commit, path, token: self.token }
    }

    /// A small file that may be absent; checked like any other file.
    async fn text(&self, name: &str, most: u64) -> Result<Option<String>, ServiceError> {
        let Some(file) = self.tree.iter().find(|file| file.path.as_str() == name) else { return Ok(None) };
        if file.size > most {
            return Err(ServiceError::invalid_model_file(name, format!("is longer than {most} bytes")));
        }
        let mut got = None;
        // Damaged once may be chance.
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

    /// Reads as much of a file's start as its header needs.
    async fn header<T: Send + 'static>(
        &self,
        file: &RemoteFile,
        parse: fn(&str, &[u8], u64) -> millm_model::Result<Prefix<T>>,
    ) -> Result<T, ServiceError> {
        // A part even of a small file: what is looked at is not fetched.
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
            match parsed.map_err(|error| of_model(self.info.repo.as_str(), error))? {
                Prefix::Complete(header) => return Ok(header),
                // In strides: a format that asks for a little more each time would ask forever.
                Prefix::NeedMore(more) => {
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
