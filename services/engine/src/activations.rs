//! What a forward pass works in: memory for the states of a batch's rows, kept between passes.

use millm_model::{ModelSpec, memory};

use crate::error::{Error, Result};
use crate::inputs::Scratch;
use crate::plain::{room, zeroed};

/// Activations, `[rows, width]` each.
#[derive(Default)]
pub(crate) struct Buffers {
    pub residual: Vec<f32>,
    /// That of a batch that is run some layers at a time.
    waiting: Vec<f32>,
    pub normed: Vec<f32>,
    pub queries: Vec<f32>,
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
    pub mixed: Vec<f32>,
    /// What attention or MLP gave.
    pub delta: Vec<f32>,
    /// What attention gave, where it waits for the MLP.
    pub held: Vec<f32>,
    pub mlp: MlpBuffers,
    pub logits: Vec<f32>,
    pub scratch: Scratch,
}

/// Those within MLPs.
#[derive(Default)]
pub(crate) struct MlpBuffers {
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    /// `[rows, experts]`: the router's.
    pub scores: Vec<f32>,
    /// Of each chosen (expert, row) its weight, sorted.
    pub chosen: Vec<(usize, usize, f32)>,
    /// One expert's rows, and what it makes of them.
    pub taken: Vec<f32>,
    pub made: Vec<f32>,
}

impl Buffers {
    /// Memory for batches of up to `rows` rows with logits for `outputs` of them; larger batches grow it.
    pub fn new(spec: &ModelSpec, rows: usize, outputs: usize) -> Result<Self> {
        let mut buffers = Self {
            logits: zeroed("activations", outputs.saturating_mul(spec.vocabulary_size))?,
            ..Self::default()
        };
        for (buffer, width) in buffers.by_row(spec) {
            *buffer = zeroed("activations", rows.saturating_mul(width))?;
        }
        Ok(buffers)
    }

    /// Makes room for a larger batch; where there is none, that is an error and not the end of the process.
    pub fn grow(&mut self, spec: &ModelSpec, rows: usize, outputs: usize) -> Result<()> {
        grow(&mut self.logits, outputs * spec.vocabulary_size)?;
        self.by_row(spec).into_iter().try_for_each(|(buffer, width)| grow(buffer, rows * width))
    }

    /// The batch that waits between its layers gets its turn, or waits again.
    pub fn exchange_residuals(&mut self) {
        std::mem::swap(&mut self.residual, &mut self.waiting);
    }

    /// Memory that [`Buffers::new`] takes.
    pub fn bytes(spec: &ModelSpec, rows: usize, outputs: usize) -> u64 {
        4 * (rows * memory::row_width(spec) + outputs * spec.vocabulary_size) as u64
    }

    /// What holds a state for each row, with that state's width.
    fn by_row(&mut self, spec: &ModelSpec) -> [(&mut Vec<f32>, usize); 14] {
        let (hidden, inner) = (spec.hidden_size, memory::inner_width(spec));
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let held = if spec.parallel_residual { hidden } else { 0 };
        let (experts, routed) = spec.experts.map_or((0, 0), |experts| (experts.count, hidden));
        [
            (&mut self.residual, hidden),
            (&mut self.waiting, hidden),
            (&mut self.normed, hidden),
            (&mut self.delta, hidden),
            (&mut self.held, held),
            (&mut self.queries, queries),
            (&mut self.mixed, queries),
            (&mut self.keys, keys),
            (&mut self.values, keys),
            (&mut self.mlp.gate, inner),
            (&mut self.mlp.up, inner),
            (&mut self.mlp.scores, experts),
            (&mut self.mlp.taken, routed),
            (&mut self.mlp.made, routed),
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

pub(crate) fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    room(buffer, length, 0.0)
}
