//! Reads a model into memory: its tokenizer, then its weights.

use millm_engine::{Engine, EngineOptions, LoadProgress};
use millm_kit::ServiceError;
use millm_model::Checkpoint;
use millm_sandbox::Sandbox;

use crate::{error, tokenizer_bundle::TokenizerBundle};

/// A function with the signature of [`read_model`].
pub(crate) type ReadModel = fn(
    &Checkpoint,
    &Sandbox,
    &EngineOptions,
    &mut dyn FnMut(LoadProgress<'_>),
) -> Result<(TokenizerBundle, Engine), ServiceError>;

/// Builds the tokenizer and loads the weights. Blocks.
///
/// # Errors
///
/// INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, MODEL_LOAD_FAILED or SERVICE_UNAVAILABLE.
pub(crate) fn read_model(
    checkpoint: &Checkpoint,
    sandbox: &Sandbox,
    options: &EngineOptions,
    progress: &mut dyn FnMut(LoadProgress<'_>),
) -> Result<(TokenizerBundle, Engine), ServiceError> {
    let tokenizer = TokenizerBundle::open(checkpoint, sandbox)?;
    Ok((tokenizer, Engine::load(checkpoint, options, progress).map_err(error::from_load)?))
}
