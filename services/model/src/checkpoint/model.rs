//! An opened model: its specification, its tensors, and the files that it consists of.

use std::collections::HashMap;

use super::sidecars::{ModelFile, Sidecars, TokenizerFiles};
use super::slice::TensorSlice;
use crate::arch::spec::ModelSpec;
use crate::config::GenerationDefaults;
use crate::error::{Error, Result};
use crate::formats::gguf::{CONFIG_JSON_KEY, Metadata};
use crate::formats::json::parse_object;
use crate::formats::mmap::{self, MappedFile};
use crate::tensor::{Tensor, TensorInfo};

/// An opened model. Sharing it between threads is cheap; dropping it unmaps the files.
#[derive(Debug)]
pub struct Checkpoint {
    spec: ModelSpec,
    tensors: Vec<TensorInfo>,
    /// The place of each tensor, in the order of `tensors`.
    slices: Vec<TensorSlice>,
    by_name: HashMap<String, usize>,
    maps: Vec<MappedFile>,
    files: Vec<ModelFile>,
    /// The metadata of a GGUF file.
    metadata: Option<Metadata>,
    sidecars: Sidecars,
}

/// The parts of a [`Checkpoint`], as the reader of a format finds them.
pub(super) struct Parts {
    pub spec: ModelSpec,
    pub tensors: Vec<(TensorInfo, TensorSlice)>,
    pub maps: Vec<MappedFile>,
    pub files: Vec<ModelFile>,
    pub metadata: Option<Metadata>,
    pub sidecars: Sidecars,
}

impl From<Parts> for Checkpoint {
    fn from(parts: Parts) -> Self {
        let Parts { spec, tensors, maps, files, metadata, sidecars } = parts;
        let by_name =
            tensors.iter().enumerate().map(|(index, (tensor, _))| (tensor.name.clone(), index)).collect();
        let (tensors, slices) = tensors.into_iter().unzip();
        Self { spec, tensors, slices, by_name, maps, files, metadata, sidecars }
    }
}

impl Checkpoint {
    /// Returns the model's dimensions and numbers.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Iterates over the tensors in the order in which the decoder needs them.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> + Clone {
        self.tensors.iter()
    }

    /// Returns whether there is a tensor with this canonical name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Returns the tensor with this canonical name.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where the model has no such tensor.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        let index = *self
            .by_name
            .get(name)
            .ok_or_else(|| Error::invalid("model", format!("tensor '{name}' is not in this model")))?;
        let slice = &self.slices[index];
        Ok(Tensor { info: &self.tensors[index], bytes: slice.bytes(&self.maps) })
    }

    /// Checks that everything read so far was the files' content. Call it after reading: where a file has become shorter,
    /// zeros are read in place of the missing part.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where a file became shorter while it was read.
    pub fn check_intact(&self) -> Result<()> {
        if self.maps.iter().all(MappedFile::is_intact) {
            return Ok(());
        }
        Err(Error::invalid("model", "one of its files became shorter while it was read"))
    }

    /// Returns the memory of a tensor to the system, when it will not be read again soon.
    pub(crate) fn release(&self, name: &str) {
        if let Some(index) = self.by_name.get(name) {
            let slice = &self.slices[*index];
            mmap::release(&self.maps[slice.map], slice.span());
        }
    }

    /// Returns the files that were read: weights, and the small files beside them.
    pub fn files(&self) -> &[ModelFile] {
        &self.files
    }

    /// Returns the number of elements of all tensors. Tied embeddings count once.
    pub fn parameter_count(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::elements).sum()
    }

    /// Returns the bytes of all tensors as stored.
    pub fn weights_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Returns the metadata of a GGUF file; `None` for safetensors.
    pub fn gguf_metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// Returns the published config.json, from the folder or from within one of miLLM's own GGUF files.
    pub fn config_json(&self) -> Option<&str> {
        let in_metadata = || self.metadata.as_ref()?.text(CONFIG_JSON_KEY).ok()?;
        self.sidecars.config.as_deref().or_else(in_metadata)
    }

    /// Returns the files of the tokenizer and the chat template, unparsed.
    pub fn tokenizer_files(&self) -> TokenizerFiles {
        TokenizerFiles {
            tokenizer: self.sidecars.tokenizer.clone(),
            tokenizer_config: self.sidecars.tokenizer_config.clone(),
            chat_template: self.sidecars.chat_template.clone(),
            metadata: self.metadata.as_ref().map(|metadata| metadata.only("tokenizer.")),
        }
    }

    /// Returns whether the model has a chat template, valid or not.
    pub fn has_chat_template(&self) -> bool {
        let in_metadata =
            self.metadata.as_ref().is_some_and(|metadata| metadata.get("tokenizer.chat_template").is_some());
        let in_config = || {
            let config =
                parse_object("tokenizer_config.json", self.sidecars.tokenizer_config.as_deref()?).ok()?;
            config.get("chat_template").map(|template| !template.is_null())
        };
        in_metadata || self.sidecars.chat_template.is_some() || in_config().unwrap_or(false)
    }

    /// Returns the sampling that the publisher recommends.
    pub fn generation_defaults(&self) -> GenerationDefaults {
        // The file was parsed for the specification, so only a wrong sampling number can fail here: then the file
        // recommends nothing.
        let text = self.sidecars.generation_config.as_deref().unwrap_or("{}");
        GenerationDefaults::from_json(text).unwrap_or_else(|error| {
            tracing::warn!(%error, "the sampling of generation_config.json is ignored");
            GenerationDefaults::default()
        })
    }
}
