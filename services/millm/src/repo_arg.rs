//! The repository argument of `pull` and `preview`: `owner/name`, `owner/name:Q8` or `owner/name:Q4_K_M`.

use anyhow::Result;
use millm_kit::{names::RepoId, quantization as quantizations};
use millm_proto::catalog::v1::Quantization;

use crate::output::Misuse;

/// A repository argument with its `--quantization`.
#[derive(Debug)]
pub struct RepoArg {
    /// The repository.
    pub repo: RepoId,
    /// Selects one of several GGUF files by its quantization, as in `:Q8_0`; empty when none is named.
    pub variant: String,
    /// The requested quantization.
    pub quantization: Quantization,
}

impl RepoArg {
    /// Parses the argument. A tag after the colon is a quantization (`:Q8`), or else a variant (`:Q8_0`).
    ///
    /// # Errors
    ///
    /// [`Misuse`] when the quantization is unknown, or when the tag and `--quantization` differ.
    pub fn parse(text: &str, given: Option<&str>) -> Result<Self> {
        let (repo, tag) = text.split_once(':').unwrap_or((text, ""));
        let repo = RepoId::parse(repo)?;
        let given = given.map(quantization).transpose()?;
        let (tagged, variant) = match quantizations::parse(tag) {
            Ok(quantization) => (Some(quantization), ""),
            Err(_) => (None, tag),
        };
        if given.is_some() && tagged.is_some_and(|tagged| given != Some(tagged)) {
            return Err(Misuse(format!("'{text}' and --quantization say different things")).into());
        }
        let quantization = given.or(tagged).unwrap_or_default();
        Ok(Self { repo, variant: variant.to_owned(), quantization })
    }
}

/// Parses a `--quantization`.
///
/// # Errors
///
/// [`Misuse`] with the allowed values.
pub fn quantization(text: &str) -> Result<Quantization> {
    quantizations::parse(text).map_err(|e| Misuse(e.message).into())
}
