//! The workspace of forward passes: memory for the states of a batch's rows, kept between passes.

use millm_model::{ModelSpec, memory};

use crate::error::{Error, Result};
use crate::forward::batch::BatchCapacity;
use crate::matmul::activations::Scratch;
use crate::sys::pod::{resized, zeroed};

/// States, `[rows, width]` each.
#[derive(Default)]
pub(crate) struct Workspace {
    pub residual: Vec<f32>,
    /// The residual of the batch that runs some layers at a time, while another one runs.
    suspended_residual: Vec<f32>,
    pub normed: Vec<f32>,
    pub queries: Vec<f32>,
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
    /// Weighted means of the values, `[rows, heads * head_dim]`.
    pub attended: Vec<f32>,
    /// The output of attention or MLP.
    pub delta: Vec<f32>,
    /// Attention's output while it waits for the MLP's (parallel residual).
    pub attention_delta: Vec<f32>,
    pub mlp: MlpWorkspace,
    /// `[outputs, vocabulary]`.
    pub logits: Vec<f32>,
    pub scratch: Scratch,
}

/// States within MLPs.
#[derive(Default)]
pub(crate) struct MlpWorkspace {
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    /// The router's, `[rows, experts]`.
    pub scores: Vec<f32>,
    /// The chosen experts with the rows that chose them, sorted.
    pub routes: Vec<Route>,
    /// The rows of one expert.
    pub expert_input: Vec<f32>,
    pub expert_output: Vec<f32>,
}

/// A row's choice of one expert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Route {
    pub expert: usize,
    pub row: usize,
    /// Multiplies the expert's output.
    pub weight: f32,
}

impl Workspace {
    /// Allocates memory for batches of up to `capacity`. Larger batches grow it.
    pub fn new(spec: &ModelSpec, capacity: BatchCapacity) -> Result<Self> {
        let mut workspace = Self {
            logits: zeroed("activations", capacity.outputs.saturating_mul(spec.vocabulary_size))?,
            ..Self::default()
        };
        for (buffer, width) in workspace.row_buffers(spec) {
            *buffer = zeroed("activations", capacity.rows.saturating_mul(width))?;
        }
        Ok(workspace)
    }

    /// Makes room for a larger batch. Too little memory is an error, not the end of the process.
    pub fn grow(&mut self, spec: &ModelSpec, rows: usize, outputs: usize) -> Result<()> {
        grow(&mut self.logits, outputs * spec.vocabulary_size)?;
        self.row_buffers(spec).into_iter().try_for_each(|(buffer, width)| grow(buffer, rows * width))
    }

    /// Swaps the residual with that of the suspended batch.
    pub fn swap_residuals(&mut self) {
        std::mem::swap(&mut self.residual, &mut self.suspended_residual);
    }

    /// Returns the bytes that [`Workspace::new`] allocates.
    pub fn bytes(spec: &ModelSpec, capacity: BatchCapacity) -> u64 {
        4 * (capacity.rows * memory::row_width(spec) + capacity.outputs * spec.vocabulary_size) as u64
    }

    /// Returns the buffers that hold a state for each row, with that state's width.
    fn row_buffers(&mut self, spec: &ModelSpec) -> [(&mut Vec<f32>, usize); 14] {
        let (hidden, inner) = (spec.hidden_size, memory::mlp_width(spec));
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let attention_delta = if spec.parallel_residual { hidden } else { 0 };
        let (experts, routed) = spec.experts.map_or((0, 0), |experts| (experts.count, hidden));
        [
            (&mut self.residual, hidden),
            (&mut self.suspended_residual, hidden),
            (&mut self.normed, hidden),
            (&mut self.delta, hidden),
            (&mut self.attention_delta, attention_delta),
            (&mut self.queries, queries),
            (&mut self.attended, queries),
            (&mut self.keys, keys),
            (&mut self.values, keys),
            (&mut self.mlp.gate, inner),
            (&mut self.mlp.up, inner),
            (&mut self.mlp.scores, experts),
            (&mut self.mlp.expert_input, routed),
            (&mut self.mlp.expert_output, routed),
        ]
    }
}

fn grow(buffer: &mut Vec<f32>, length: usize) -> Result<()> {
    let more = length.saturating_sub(buffer.len());
    let bytes = 4 * length;
    buffer.try_reserve_exact(more).map_err(|_| Error::OutOfMemory { what: "activations", bytes })?;
    buffer.resize(length.max(buffer.len()), 0.0);
    Ok(())
}

/// Returns the first `length` values of a buffer, which grows if it is shorter.
pub(crate) fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    resized(buffer, length, 0.0)
}
