//! The forward pass: from a batch of tokens to logits. [`Forward`] is the seam between the scheduler and the
//! computation. The host's implementation is here ([`decoder`]); [`crate::candle`] has the one for GPUs.

pub(crate) mod attention;
pub(crate) mod attention_pattern;
pub(crate) mod batch;
pub(crate) mod decoder;
pub(crate) mod embedding;
pub(crate) mod hooks;
pub(crate) mod linear;
pub(crate) mod load;
pub(crate) mod mlp;
pub(crate) mod norm;
pub(crate) mod observe;
pub(crate) mod rope;
pub(crate) mod workspace;

use std::ops::Range;

use millm_model::ModelSpec;

use crate::error::Result;
use crate::forward::batch::Batch;
use crate::forward::hooks::Hooks;
use crate::kv_cache::{BlockCopy, BlockPool};

/// A model that is ready to run: weights, activations, and the keys and values of the KV cache's blocks.
pub trait Forward: Send {
    /// Returns the model's spec.
    fn spec(&self) -> &ModelSpec;

    /// Returns the bytes that the weights take.
    fn weight_bytes(&self) -> u64;

    /// Runs a batch. The keys and values of its rows enter the KV cache. Returns the logits, `[outputs, vocabulary]`,
    /// of the rows in [`Batch::outputs`].
    ///
    /// # Errors
    /// Returns an error if the batch does not fit the blocks, or memory or the device fails. Then no row has entered
    /// the cache.
    fn forward(&mut self, batch: &Batch, blocks: &mut BlockPool, hooks: &mut dyn Hooks) -> Result<&[f32]>;

    /// Runs some layers of a batch, in order and from the first on, so that other batches may run in between. Returns
    /// the logits with the last layer. An implementation may run all layers with the last, and then shows all states
    /// to the hooks of that call.
    ///
    /// # Errors
    /// As [`Forward::forward`].
    fn forward_layers(
        &mut self,
        batch: &Batch,
        layers: Range<usize>,
        blocks: &mut BlockPool,
        hooks: &mut dyn Hooks,
    ) -> Result<Option<&[f32]>>;

    /// Returns the logits of the last pass, `[outputs, vocabulary]`.
    fn logits(&self) -> &[f32];

    /// Copies the keys and values of a block in all layers.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    fn copy_block(&mut self, copy: BlockCopy) -> Result<()>;
}
