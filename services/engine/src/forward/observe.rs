//! Shows the states of one pass to its hooks. The decoders call it at every point; where no hook wants a point, it costs
//! one question.

use millm_model::ModelSpec;

use crate::forward::batch::{Batch, Segment};
use crate::forward::hooks::{Hook, HookPoint, Hooks};
use crate::forward::norm::Norm;
use crate::forward::workspace::{Route, sized};
use crate::sys::thread_pool::ThreadPool;

/// The hooks of a pass, and the batch that runs.
pub(crate) struct Observer<'a> {
    hooks: &'a mut dyn Hooks,
    batch: &'a Batch,
    /// Memory for states that only hooks need.
    scratch: Vec<f32>,
}

impl<'a> Observer<'a> {
    pub fn new(hooks: &'a mut dyn Hooks, batch: &'a Batch) -> Self {
        Self { hooks, batch, scratch: Vec::new() }
    }

    /// Returns the batch that runs.
    pub fn batch(&self) -> &'a Batch {
        self.batch
    }

    /// Returns whether states are wanted that must be computed or copied first.
    pub fn wants(&self, hook: Hook) -> bool {
        !self.batch.is_empty() && self.hooks.wants(hook)
    }

    /// Shows states that were computed anyway, `[rows, width]`.
    pub fn show(&mut self, hook: Hook, states: &[f32]) {
        if !states.is_empty() && self.hooks.wants(hook) {
            self.hooks.receive(hook, states, self.batch);
        }
    }

    /// Shows queries or keys, `[rows, heads * head_dim]`, with the dimensions of a head in the published order.
    pub fn show_heads(&mut self, hook: Hook, spec: &ModelSpec, states: &[f32]) {
        if !spec.permutes_heads() {
            self.show(hook, states);
        } else if self.wants(hook) {
            let out = sized(&mut self.scratch, states.len());
            let heads = out.chunks_exact_mut(spec.head_dim).zip(states.chunks_exact(spec.head_dim));
            for (out, head) in heads {
                let (first, second) = out.split_at_mut(spec.head_dim / 2);
                for ((first, second), [a, b]) in first.iter_mut().zip(second).zip(head.as_chunks::<2>().0) {
                    (*first, *second) = (*a, *b);
                }
            }
            self.hooks.receive(hook, out, self.batch);
        }
    }

    /// Shows attention's scores or weights of one segment, `[rows, heads, keys]`.
    pub fn show_attention(&mut self, hook: Hook, segment: &Segment, values: &[f32]) {
        if self.hooks.wants(hook) {
            let keys = segment.position + segment.rows.len();
            self.hooks.receive_attention(hook, segment, keys, values);
        }
    }

    /// Shows rows as a norm leaves them before its gain.
    pub fn show_before_gain(&mut self, hook: Hook, pool: &ThreadPool, norm: Option<&Norm>, rows: &[f32]) {
        if let Some(norm) = norm
            && self.wants(hook)
        {
            let out = sized(&mut self.scratch, rows.len());
            norm.rows_before_gain(pool, out, rows);
            self.hooks.receive(hook, out, self.batch);
        }
    }

    /// Shows rows that are normed for hooks only.
    pub fn show_normed(&mut self, hook: Hook, pool: &ThreadPool, norm: &Norm, rows: &[f32]) {
        if self.wants(hook) {
            let out = sized(&mut self.scratch, rows.len());
            norm.rows(pool, norm.span, out, rows);
            self.hooks.receive(hook, out, self.batch);
        }
    }

    /// Shows the experts that rows have chosen, `[rows, chosen]`, each row's best first.
    pub fn show_routes(&mut self, layer: usize, routes: &[Route]) {
        let mut show = |point: HookPoint, value: fn(&Route) -> f32| {
            let hook = Hook::at(point, layer);
            if self.wants(hook) {
                let values: Vec<f32> = routes.iter().map(value).collect();
                self.hooks.receive(hook, &values, self.batch);
            }
        };
        show(HookPoint::RouterWeights, |route| route.weight);
        show(HookPoint::RouterExperts, |route| route.expert as f32);
    }

    /// Takes the memory for states that only hooks need. [`Observer::keep_scratch`] gives it back.
    pub fn take_scratch(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.scratch)
    }

    /// Keeps memory for later states.
    pub fn keep_scratch(&mut self, scratch: Vec<f32>) {
        self.scratch = scratch;
    }
}
