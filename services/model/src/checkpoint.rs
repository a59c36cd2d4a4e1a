//! A model on disk, opened and validated: every tensor that its spec needs is there with the expected shape, and
//! their bytes can be borrowed from the mapped files.

mod folder;
mod gguf;
mod layout;
mod packed;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::GenerationDefaults;
use crate::config::fields::parse_object;
use crate::error::{Error, Result};
use crate::gguf::Metadata;
use crate::local::{Weights, weights_in};
use crate::mapped::{self, Mapped};
use crate::spec::{ExpectedTensor, ModelSpec};
use crate::tensor::{Tensor, TensorInfo, TensorType};
pub use layout::Naming;
use layout::Place;
use packed::Scales;

pub use folder::{check_count, tensors_in as tensors_in_safetensors};
pub use gguf::tensors_in as tensors_in_gguf;

/// Bounds for the files beside the weights.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// An opened model. Cheap to share between threads; dropping it unmaps the files.
#[derive(Debug)]
pub struct Checkpoint {
    spec: ModelSpec,
    tensors: Vec<TensorInfo>,
    /// Beside each tensor.
    places: Vec<Place>,
    by_name: HashMap<String, usize>,
    maps: Vec<Mapped>,
    files: Vec<ModelFile>,
    /// Of a GGUF file.
    metadata: Option<Metadata>,
    sidecars: Sidecars,
}

/// A file the model consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    pub path: PathBuf,
    pub size_bytes: u64,
}

/// What a tokenizer and a chat template are made of, as it was published. Each is a stranger's program: it is compiled
/// and run in a process of its own (`millm-sandbox`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TokenizerFiles {
    /// tokenizer.json
    pub tokenizer: Option<String>,
    /// tokenizer_config.json
    pub tokenizer_config: Option<String>,
    /// chat_template.jinja
    pub chat_template: Option<String>,
    /// `tokenizer.*` of a GGUF file.
    pub metadata: Option<Metadata>,
}

/// The small files beside the weights, as far as they exist.
#[derive(Debug, Default)]
struct Sidecars {
    config: Option<String>,
    generation_config: Option<String>,
    tokenizer: Option<String>,
    tokenizer_config: Option<String>,
    chat_template: Option<String>,
}

/// A tensor as some file has it, under the file's name.
struct Found {
    name: String,
    /// `None` for element types that are no weights, named by `dtype`.
    ty: Option<TensorType>,
    dtype: &'static str,
    shape: Vec<usize>,
    /// Which of the mapped files, and where in it.
    map: usize,
    range: std::ops::Range<usize>,
    /// For messages.
    file: Arc<str>,
    /// Of a tensor of blocks that are stored apart from these.
    scales: Option<Scales>,
}

impl Checkpoint {
    /// Opens a folder (config.json with safetensors, or a GGUF file beside its tokenizer) or one `.gguf` file.
    ///
    /// Errors: `InvalidFile` naming the file and what is wrong, `PickleOnly`, `UnsupportedArchitecture`,
    /// `UnsupportedField`, `InvalidPath`, `Io`.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
        if !metadata.is_dir() {
            return gguf::open(path, Sidecars::default(), Vec::new());
        }
        let weights = weights_in(path)?;
        let (sidecars, files) = Sidecars::read(path)?;
        match weights {
            Weights::Gguf(file) => gguf::open(&file, sidecars, files),
            Weights::Safetensors => folder::open(path, sidecars, files),
        }
    }

    /// Keeps of `found` what the spec needs, and checks that this is all of it.
    fn assemble(
        mut spec: ModelSpec,
        naming: Naming,
        found: Vec<Found>,
        maps: Vec<Mapped>,
        weights_file: &str,
    ) -> Result<Self> {
        let by_file = by_name(&found);
        if spec.tied_embeddings && outputs_apart(&spec, naming, &by_file, &maps) {
            spec.tied_embeddings = false;
        }
        let kept = keep(&spec, naming, &by_file, weights_file)?;
        let by_name = kept.iter().enumerate().map(|(at, (tensor, _))| (tensor.name.clone(), at)).collect();
        let (tensors, places) = kept.into_iter().unzip();
        Ok(Self {
            spec,
            tensors,
            places,
            by_name,
            maps,
            files: Vec::new(),
            metadata: None,
            sidecars: Sidecars::default(),
        })
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// In the order in which the decoder needs them.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> + Clone {
        self.tensors.iter()
    }

    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// By canonical name.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        let index = *self
            .by_name
            .get(name)
            .ok_or_else(|| Error::invalid("model", format!("tensor '{name}' is not in this model")))?;
        let place = &self.places[index];
        Ok(Tensor { info: &self.tensors[index], bytes: place.bytes(&self.maps) })
    }

    /// Whether all that was read of the files was theirs; `InvalidFile` when one became shorter meanwhile. To be
    /// asked when reading has ended: zeros stand for what is no more.
    pub fn check_whole(&self) -> Result<()> {
        if self.maps.iter().all(Mapped::is_whole) {
            return Ok(());
        }
        Err(Error::invalid("model", "a file of it became shorter while it was read"))
    }

    /// Lets the system take back the memory of a tensor that was read and is not needed again soon.
    pub(crate) fn release(&self, name: &str) {
        if let Some(index) = self.by_name.get(name) {
            let place = &self.places[*index];
            mapped::release(&self.maps[place.map], place.span());
        }
    }

    /// Weights and the files beside them that were read.
    pub fn files(&self) -> &[ModelFile] {
        &self.files
    }

    /// Elements of all tensors; tied embeddings count once.
    pub fn parameter_count(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::elements).sum()
    }

    /// Bytes of all tensors as stored.
    pub fn weights_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// The metadata of a GGUF file; `None` for safetensors.
    pub fn gguf_metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// The published config.json, from the folder or from within our own GGUF files.
    pub fn config_json(&self) -> Option<&str> {
        let carried = || self.metadata.as_ref()?.text(crate::gguf::CONFIG_JSON_KEY).ok()?;
        self.sidecars.config.as_deref().or_else(carried)
    }

    /// The files that a tokenizer and a chat template are made of, unread.
    pub fn tokenizer_files(&self) -> TokenizerFiles {
        TokenizerFiles {
            tokenizer: self.sidecars.tokenizer.clone(),
            tokenizer_config: self.sidecars.tokenizer_config.clone(),
            chat_template: self.sidecars.chat_template.clone(),
            metadata: self.metadata.as_ref().map(|metadata| metadata.only("tokenizer.")),
        }
    }

    /// Whether [`Self::chat_template`] would find one, readable or not.
    pub fn has_chat_template(&self) -> bool {
        let carried = self.metadata.as_ref().is_some_and(|of| of.get("tokenizer.chat_template").is_some());
        let config = || {
            let config =
                parse_object("tokenizer_config.json", self.sidecars.tokenizer_config.as_deref()?).ok()?;
            config.get("chat_template").map(|template| !template.is_null())
        };
        carried || self.sidecars.chat_template.is_some() || config().unwrap_or(false)
    }

    /// What the publisher recommends for sampling.
    pub fn generation_defaults(&self) -> GenerationDefaults {
        // The file was parsed for the spec, so what fails here are odd sampling numbers: no recommendation.
        let text = self.sidecars.generation_config.as_deref().unwrap_or("{}");
        GenerationDefaults::from_json(text).unwrap_or_else(|error| {
            tracing::warn!(%error, "generation defaults are not used");
            GenerationDefaults::default()
        })
    }
}

fn by_name(found: &[Found]) -> HashMap<&str, &Found> {
    found.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect()
}

/// Of what files have all that the spec needs, in its order.
fn keep(
    spec: &ModelSpec,
    naming: Naming,
    by_file: &HashMap<&str, &Found>,
    weights_file: &str,
) -> Result<Vec<(TensorInfo, Place)>> {
    let keep_one = |wanted: ExpectedTensor| {
        let stored = |name: &str| by_file.get(name).copied();
        let Some((kept, _, tensor)) = naming.find(&wanted, spec, stored) else {
            let known_as = naming.known_as(&wanted, spec);
            let why = format!("tensor '{}' ({known_as}) is missing", wanted.name);
            return Err(Error::invalid(weights_file, why));
        };
        let wrong = |why: String| Error::invalid(&*tensor.file, format!("tensor '{}' {why}", wanted.name));
        if tensor.shape != kept.shape {
            return Err(wrong(format!("has shape {:?}, the config asks for {:?}", tensor.shape, kept.shape)));
        }
        let ty =
            tensor.ty.ok_or_else(|| wrong(format!("has type {}, which is not supported", tensor.dtype)))?;
        let place = Place::new(tensor, ty, &wanted.shape, &kept).map_err(wrong)?;
        let bytes =
            ty.bytes_for(&wanted.shape).ok_or_else(|| wrong("has rows of broken blocks".to_owned()))?;
        Ok((TensorInfo { name: wanted.name, ty, shape: wanted.shape, bytes }, place))
    };
    spec.expected_tensors().into_iter().map(keep_one).collect()
}

/// What an opened checkpoint would hold of these, without the places.
fn infos(spec: &ModelSpec, naming: Naming, found: &[Found], weights_file: &str) -> Result<Vec<TensorInfo>> {
    let kept = keep(spec, naming, &by_name(found), weights_file)?;
    Ok(kept.into_iter().map(|(tensor, _)| tensor).collect())
}

/// Whether the file has an output matrix that is not the embedding: the config that calls the two one is wrong then.
fn outputs_apart(spec: &ModelSpec, naming: Naming, by_file: &HashMap<&str, &Found>, maps: &[Mapped]) -> bool {
    let bytes = |name: &str| {
        let wanted =
            ExpectedTensor { name: name.to_owned(), shape: vec![spec.vocabulary_size, spec.hidden_size] };
        let (_, _, found) = naming.find(&wanted, spec, |name| by_file.get(name).copied())?;
        Some(&maps[found.map][found.range.clone()])
    };
    bytes("output.weight").is_some_and(|output| bytes("token_embd.weight") != Some(output))
}

impl Sidecars {
    fn read(folder: &Path) -> Result<(Self, Vec<ModelFile>)> {
        let mut files = Vec::new();
        let mut read = |name: &str, most: u64| -> Result<Option<String>> {
            let path = folder.join(name);
            let text = mapped::read_text(&path, most)?;
            if let Some(text) = &text {
                files.push(ModelFile { path, size_bytes: text.len() as u64 });
            }
            Ok(text)
        };
        let sidecars = Self {
            config: read("config.json", MAX_CONFIG_BYTES)?,
            generation_config: read("generation_config.json", MAX_CONFIG_BYTES)?,
            tokenizer: read("tokenizer.json", MAX_TOKENIZER_BYTES)?,
            tokenizer_config: read("tokenizer_config.json", MAX_CONFIG_BYTES)?,
            chat_template: read("chat_template.jinja", MAX_CONFIG_BYTES)?,
        };
        Ok((sidecars, files))
    }
}
