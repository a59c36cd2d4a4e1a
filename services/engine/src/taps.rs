//! Looking inside: what the forward pass that serves computes on its way, handed out where someone asks.

use crate::batch::Batch;

/// A place in each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookPoint {
    /// The block's output.
    Residual,
    /// The attention module's raw output, before it is added to the residual.
    Attention,
    /// The MLP module's raw output, before it is added to the residual.
    Mlp,
}

/// Someone who listens. Where nobody wants a point, nothing is computed or copied for it.
pub trait Taps {
    fn wants(&self, point: HookPoint, layer: usize) -> bool;

    /// `values` is `[rows of the batch, hidden]`.
    fn take(&mut self, point: HookPoint, layer: usize, values: &[f32], batch: &Batch);
}

/// Nobody listens.
pub struct NoTaps;

impl Taps for NoTaps {
    fn wants(&self, _: HookPoint, _: usize) -> bool {
        false
    }

    fn take(&mut self, _: HookPoint, _: usize, _: &[f32], _: &Batch) {}
}
