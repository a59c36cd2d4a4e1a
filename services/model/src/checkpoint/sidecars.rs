//! The small files beside the weights: configs, tokenizer, chat template.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::formats::gguf::Metadata;
use crate::formats::mmap;

/// The largest config that is read.
pub(super) const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// The largest tokenizer.json that is read.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// The path on disk.
    pub path: PathBuf,
    /// The size in bytes.
    pub size_bytes: u64,
}

/// The published files of a tokenizer and a chat template. They come from strangers and are compiled and run in a
/// separate process (`millm-sandbox`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TokenizerFiles {
    /// The text of tokenizer.json.
    pub tokenizer: Option<String>,
    /// The text of tokenizer_config.json.
    pub tokenizer_config: Option<String>,
    /// The text of chat_template.jinja.
    pub chat_template: Option<String>,
    /// The `tokenizer.*` keys of a GGUF file.
    pub metadata: Option<Metadata>,
}

/// The texts of the small files beside the weights, as far as they exist.
#[derive(Debug, Default)]
pub(super) struct Sidecars {
    pub config: Option<String>,
    pub generation_config: Option<String>,
    pub tokenizer: Option<String>,
    pub tokenizer_config: Option<String>,
    pub chat_template: Option<String>,
}

impl Sidecars {
    /// Reads those that exist in a folder, and lists them.
    pub(super) fn read(folder: &Path) -> Result<(Self, Vec<ModelFile>)> {
        let mut files = Vec::new();
        let mut read = |name: &str, max: u64| -> Result<Option<String>> {
            let path = folder.join(name);
            let text = mmap::read_text(&path, max)?;
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
