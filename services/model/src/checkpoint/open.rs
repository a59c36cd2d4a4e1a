//! Opens a checkpoint of either format.

use std::path::Path;

use super::model::Checkpoint;
use super::sidecars::Sidecars;
use super::{gguf_file, safetensors_folder};
use crate::error::{Error, Result};
use crate::model_path::{Weights, weights_in};

impl Checkpoint {
    /// Opens a folder (config.json with safetensors, or a GGUF file beside its tokenizer) or one `.gguf` file.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] naming the file and what is wrong, [`Error::PickleOnly`],
    /// [`Error::UnsupportedArchitecture`], [`Error::UnsupportedField`], [`Error::InvalidPath`] and [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
        if !metadata.is_dir() {
            return gguf_file::open(path, Sidecars::default(), Vec::new());
        }
        let weights = weights_in(path)?;
        let (sidecars, files) = Sidecars::read(path)?;
        match weights {
            Weights::Gguf(file) => gguf_file::open(&file, sidecars, files),
            Weights::Safetensors => safetensors_folder::open(path, sidecars, files),
        }
    }
}
