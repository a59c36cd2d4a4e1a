//! The one decoder: every family, quantized or not, one row or many, watched or not, takes this path.
//!
//! This is also the seam between devices: the scheduler hands in a [`Batch`] and gets logits back; weights,
//! activations and what lies in the cache's pages are known from here down only.

use millm_model::ModelSpec;
use millm_model::spec::Activation;

use crate::attention::{Shape, attend};
use crate::batch::Batch;
use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::inputs::Scratch;
use crate::linear::{Linear, Weight, together};
use crate::plain::zeroed;
use crate::rope::Rope;
use crate::taps::{HookPoint, Taps};
use crate::team::Team;
use crate::vector::{add, gelu, gelu_tanh, rms_norm, silu};

/// A model ready to run.
pub struct Decoder {
    pub(crate) spec: ModelSpec,
    pub(crate) team: Team,
    pub(crate) embedding: Weight,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Vec<f32>,
    pub(crate) output: Linear,
    pub(crate) rope: Rope,
    pub(crate) buffers: Buffers,
}

pub(crate) struct Layer {
    pub attention_norm: Vec<f32>,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub attention_output: Linear,
    pub mlp_norm: Vec<f32>,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// Activations, `[rows, width]` each, kept between passes.
#[derive(Default)]
pub(crate) struct Buffers {
    residual: Vec<f32>,
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    mixed: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    delta: Vec<f32>,
    logits: Vec<f32>,
    scratch: Scratch,
}

impl Buffers {
    /// Memory for batches of up to `rows` rows with logits for `outputs` of them; larger batches grow it.
    pub fn new(spec: &ModelSpec, rows: usize, outputs: usize) -> Result<Self> {
        let make = |width: usize| zeroed("activations", rows.saturating_mul(width));
        Ok(Self {
            residual: make(spec.hidden_size)?,
            normed: make(spec.hidden_size)?,
            queries: make(spec.heads * spec.head_dim)?,
            keys: make(spec.kv_heads * spec.head_dim)?,
            values: make(spec.kv_heads * spec.head_dim)?,
            mixed: make(spec.heads * spec.head_dim)?,
            gate: make(spec.intermediate_size)?,
            up: make(spec.intermediate_size)?,
            delta: make(spec.hidden_size)?,
            logits: zeroed("activations", outputs.saturating_mul(spec.vocabulary_size))?,
            scratch: Scratch::default(),
        })
    }

    /// Makes room for a larger batch; where there is none, that is an error and not the end of the process.
    fn grow(&mut self, spec: &ModelSpec, rows: usize, outputs: usize) -> Result<()> {
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        grow(&mut self.logits, outputs * spec.vocabulary_size)?;
        for buffer in [&mut self.residual, &mut self.normed, &mut self.delta] {
            grow(buffer, rows * spec.hidden_size)?;
        }
        for buffer in [&mut self.queries, &mut self.mixed] {
            grow(buffer, rows * queries)?;
        }
        for buffer in [&mut self.keys, &mut self.values] {
            grow(buffer, rows * keys)?;
        }
        for buffer in [&mut self.gate, &mut self.up] {
            grow(buffer, rows * spec.intermediate_size)?;
        }
        Ok(())
    }

    /// Memory that [`Buffers::new`] takes.
    pub fn bytes(spec: &ModelSpec, rows: usize, outputs: usize) -> u64 {
        let widths = 3 * spec.hidden_size
            + 2 * (spec.heads + spec.kv_heads) * spec.head_dim
            + 2 * spec.intermediate_size;
        4 * (rows * widths + outputs * spec.vocabulary_size) as u64
    }
}

fn grow(buffer: &mut Vec<f32>, length: usize) -> Result<()> {
    let more = length.saturating_sub(buffer.len());
    let bytes = 4 * length;
    buffer.try_reserve_exact(more).map_err(|_| Error::OutOfMemory { what: "activations", bytes })?;
    buffer.resize(length.max(buffer.len()), 0.0);
    Ok(())
}

fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

impl Decoder {
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Memory of the weights.
    pub fn weight_bytes(&self) -> u64 {
        let linear =
            |linear: &Linear| linear.weight.bytes() + linear.bias.as_ref().map_or(0, |bias| 4 * bias.len());
        let layer = |layer: &Layer| {
            let Layer { attention_norm, query, key, value, attention_output, mlp_norm, gate, up, down } =
                layer;
            [query, key, value, attention_output, gate, up, down].into_iter().map(linear).sum::<usize>()
                + 4 * (attention_norm.len() + mlp_norm.len())
        };
        let output = if self.spec.tied_embeddings { 0 } else { linear(&self.output) };
        (self.embedding.bytes() + output + 4 * self.norm.len() + self.layers.iter().map(layer).sum::<usize>())
            as u64
    }

    /// Runs a batch: its rows' keys and values enter the cache, and the logits `[outputs, vocabulary]` of the rows
    /// in [`Batch::outputs`] come back. On an error nothing has entered the cache.
    pub fn forward(&mut self, batch: &Batch, cache: &mut KvCache, taps: &mut dyn Taps) -> Result<&[f32]> {
        batch.check(cache, self.spec.vocabulary_size)?;
        self.buffers.grow(&self.spec, batch.tokens().len(), batch.outputs().len())?;
        let hidden = self.spec.hidden_size;
        let residual = sized(&mut self.buffers.residual, batch.tokens().len() * hidden);
        for (row, token) in residual.chunks_exact_mut(hidden).zip(batch.tokens()) {
            self.embedding.row(*token as usize, row);
        }
        self.rope.prepare(batch.positions());
        for layer in 0..self.layers.len() {
            self.attention(layer, batch, cache);
            self.join(HookPoint::Attention, layer, batch, taps);
            self.mlp(layer, batch);
            self.join(HookPoint::Mlp, layer, batch, taps);
            if taps.wants(HookPoint::Residual, layer) {
                let residual = &self.buffers.residual[..batch.tokens().len() * hidden];
                taps.take(HookPoint::Residual, layer, residual, batch);
            }
        }
        for segment in batch.segments() {
            cache.advance(segment.sequence, segment.rows.len());
        }
        Ok(self.logits(batch))
    }

    /// `delta = attention(norm(residual))`.
    fn attention(&mut self, index: usize, batch: &Batch, cache: &mut KvCache) {
        let Self { spec, team, layers, rope, buffers, .. } = self;
        let layer = &layers[index];
        let rows = batch.tokens().len();
        let (wide, narrow) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let residual = &buffers.residual[..rows * spec.hidden_size];
        let normed = sized(&mut buffers.normed, rows * spec.hidden_size);
        norm(team, normed, residual, &layer.attention_norm, spec.norm_eps as f32);
        let queries = sized(&mut buffers.queries, rows * wide);
        let keys = sized(&mut buffers.keys, rows * narrow);
        let values = sized(&mut buffers.values, rows * narrow);
        let layers = [(&layer.query, &mut *queries), (&layer.key, &mut *keys), (&layer.value, &mut *values)];
        together(team, batch.steps(), normed, layers, &mut buffers.scratch);
        team.rows(queries, wide, |row, heads| rope.turn(row, heads, spec.head_dim));
        for segment in batch.segments() {
            for row in segment.rows.clone() {
                let key = &mut keys[row * narrow..(row + 1) * narrow];
                rope.turn(row, key, spec.head_dim);
                cache.write(
                    index,
                    segment.sequence,
                    batch.positions()[row],
                    key,
                    &values[row * narrow..(row + 1) * narrow],
                );
            }
        }
        let shape = Shape {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: spec.attention_scale,
            window: spec.sliding_window[index],
            soft_cap: None,
            sinks: None,
        };
        let mixed = sized(&mut buffers.mixed, rows * wide);
        attend(team, shape, cache, index, batch.segments(), queries, mixed);
        let delta = sized(&mut buffers.delta, rows * spec.hidden_size);
        layer.attention_output.forward(team, batch.steps(), mixed, delta, &mut buffers.scratch);
    }

    /// `delta = mlp(norm(residual))`.
    fn mlp(&mut self, index: usize, batch: &Batch) {
        let Self { spec, team, layers, buffers, .. } = self;
        let layer = &layers[index];
        let rows = batch.tokens().len();
        let wide = spec.intermediate_size;
        let residual = &buffers.residual[..rows * spec.hidden_size];
        let normed = sized(&mut buffers.normed, rows * spec.hidden_size);
        norm(team, normed, residual, &layer.mlp_norm, spec.norm_eps as f32);
        let gate = sized(&mut buffers.gate, rows * wide);
        let up = sized(&mut buffers.up, rows * wide);
        let layers = [(&layer.gate, &mut *gate), (&layer.up, &mut *up)];
        together(team, batch.steps(), normed, layers, &mut buffers.scratch);
        let up = &*up;
        match spec.activation {
            Activation::Silu => team.rows(gate, wide, |row, gate| gated(gate, &up[row * wide..], silu)),
            Activation::Gelu => team.rows(gate, wide, |row, gate| gated(gate, &up[row * wide..], gelu)),
            Activation::GeluTanh => {
                team.rows(gate, wide, |row, gate| gated(gate, &up[row * wide..], gelu_tanh));
            }
        }
        let delta = sized(&mut buffers.delta, rows * spec.hidden_size);
        layer.down.forward(team, batch.steps(), gate, delta, &mut buffers.scratch);
    }

    /// `residual += delta`, shown to who wants it.
    fn join(&mut self, point: HookPoint, layer: usize, batch: &Batch, taps: &mut dyn Taps) {
        let length = batch.tokens().len() * self.spec.hidden_size;
        let delta = &self.buffers.delta[..length];
        if taps.wants(point, layer) {
            taps.take(point, layer, delta, batch);
        }
        let hidden = self.spec.hidden_size;
        let sum = |row: usize, residual: &mut [f32]| add(residual, &delta[row * hidden..(row + 1) * hidden]);
        self.team.rows(&mut self.buffers.residual[..length], hidden, sum);
    }

    fn logits(&mut self, batch: &Batch) -> &[f32] {
        let Self { spec, team, norm, output, buffers, .. } = self;
        let hidden = spec.hidden_size;
        let normed = sized(&mut buffers.normed, batch.outputs().len() * hidden);
        for (out, row) in normed.chunks_exact_mut(hidden).zip(batch.outputs()) {
            rms_norm(out, &buffers.residual[row * hidden..(row + 1) * hidden], norm, spec.norm_eps as f32);
        }
        let logits = sized(&mut buffers.logits, batch.outputs().len() * spec.vocabulary_size);
        if !batch.outputs().is_empty() {
            // Logits are a step's business, whoever asks.
            output.forward(team, batch.outputs().len(), normed, logits, &mut buffers.scratch);
        }
        logits
    }
}

fn norm(team: &Team, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let width = weight.len();
    team.rows(out, width, |row, out| rms_norm(out, &x[row * width..(row + 1) * width], weight, eps));
}

/// `gate = activation(gate) * up`.
fn gated(gate: &mut [f32], up: &[f32], activation: impl Fn(f32) -> f32) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = activation(*gate) * up;
    }
}
