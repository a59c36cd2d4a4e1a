//! Hooks: a look at the states that a forward pass computes, at the hook points of [`millm_model::hooks`].

pub use millm_model::{Hook, HookPoint};

use crate::forward::batch::{Batch, Segment};

/// Receives states. Where no hook wants a point, nothing is computed or copied for it.
///
/// A pass shows the points that the model has, in the order in which it computes them. On the host a row's states do
/// not depend on the other rows of the batch or on how a prompt is cut into chunks.
pub trait Hooks {
    /// Returns whether the states at this point are wanted. The answer must not change during a pass.
    fn wants(&self, hook: Hook) -> bool;

    /// Receives the states of all rows of a batch, `[rows, width]`; heads and their dimensions are flattened. Logits
    /// are those of the batch's outputs, `[outputs, vocabulary]`. Numbers of experts come as floats.
    fn receive(&mut self, hook: Hook, states: &[f32], batch: &Batch);

    /// Receives attention's scores or weights of one segment's rows, `[rows, heads, keys]`, where `keys` is the
    /// segment's position plus its rows. A key that a row does not attend to has a score of negative infinity and a
    /// weight of 0.
    fn receive_attention(&mut self, hook: Hook, segment: &Segment, keys: usize, values: &[f32]);
}

/// Hooks that want no states.
pub struct NoHooks;

impl Hooks for NoHooks {
    fn wants(&self, _: Hook) -> bool {
        false
    }

    fn receive(&mut self, _: Hook, _: &[f32], _: &Batch) {}

    fn receive_attention(&mut self, _: Hook, _: &Segment, _: usize, _: &[f32]) {}
}
