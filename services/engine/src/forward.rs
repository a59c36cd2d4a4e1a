//! The seam between the scheduler and whoever computes: a batch goes in, logits come out. Weights, activations and what
//! lies in the cache's pages are known from there down only.

use std::ops::Range;

use millm_model::ModelSpec;

use crate::batch::Batch;
use crate::cache::KvCache;
use crate::decoder::Decoder;
use crate::device;
use crate::error::Result;
use crate::taps::Taps;

/// A model ready to run.
pub(crate) trait Forward: Send {
    fn spec(&self) -> &ModelSpec;

    /// Memory of the weights.
    fn weight_bytes(&self) -> u64;

    /// See [`Decoder::forward`].
    fn forward(&mut self, batch: &Batch, cache: &mut KvCache, taps: &mut dyn Taps) -> Result<&[f32]>;

    /// See [`Decoder::forward_layers`].
    fn forward_layers(
        &mut self,
        batch: &Batch,
        layers: Range<usize>,
        cache: &mut KvCache,
    ) -> Result<Option<&[f32]>>;
}

macro_rules! forward {
    ($($decoder:ty),*) => { $(
        impl Forward for $decoder {
            fn spec(&self) -> &ModelSpec {
                self.spec()
            }

            fn weight_bytes(&self) -> u64 {
                self.weight_bytes()
            }

            fn forward(&mut self, batch: &Batch, cache: &mut KvCache, taps: &mut dyn Taps) -> Result<&[f32]> {
                self.forward(batch, cache, taps)
            }

            fn forward_layers(
                &mut self,
                batch: &Batch,
                layers: Range<usize>,
                cache: &mut KvCache,
            ) -> Result<Option<&[f32]>> {
                self.forward_layers(batch, layers, cache)
            }
        }
    )* };
}

forward!(Decoder, device::Decoder);
