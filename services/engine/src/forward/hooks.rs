//! Hooks: a look at the states that a forward pass computes, at TransformerLens' hook points.

use crate::forward::batch::Batch;

/// A point in each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookPoint {
    /// The layer's output (`hook_resid_post`).
    Residual,
    /// The attention module's output before it is added to the residual (`hook_attn_out`).
    Attention,
    /// The MLP module's output before it is added to the residual (`hook_mlp_out`).
    Mlp,
}

/// Receives states. Where no hook wants a point, nothing is computed or copied for it.
pub trait Hooks {
    /// Returns whether [`Hooks::receive`] wants the states at this point.
    fn wants(&self, point: HookPoint, layer: usize) -> bool;

    /// Receives the states of a batch, `[rows, hidden]`.
    fn receive(&mut self, point: HookPoint, layer: usize, states: &[f32], batch: &Batch);
}

/// Hooks that want no states.
pub struct NoHooks;

impl Hooks for NoHooks {
    fn wants(&self, _: HookPoint, _: usize) -> bool {
        false
    }

    fn receive(&mut self, _: HookPoint, _: usize, _: &[f32], _: &Batch) {}
}
