//! The one decoder: every family, quantized or not, one row or many, watched or not, takes this path. What families
//! differ in are fields of the spec and tensors that are there or not.
//!
//! This is also the seam between devices: the scheduler hands in a [`Batch`] and gets logits back; weights,
//! activations and what lies in the cache's pages are known from here down only.

use std::ops::Range;

use millm_model::ModelSpec;
use millm_model::spec::NormPlace;

use crate::activations::{Buffers, sized};
use crate::attention::{Shape, attend};
use crate::batch::Batch;
use crate::cache::KvCache;
use crate::embedding::{Embedding, scale};
use crate::error::Result;
use crate::linear::{Linear, together};
use crate::mlp::{Mlp, Pass};
use crate::norm::Norm;
use crate::rope::Rope;
use crate::taps::{HookPoint, NoTaps, Taps};
use crate::team::Team;
use crate::vector::{add, tanh};

/// A model ready to run.
pub struct Decoder {
    pub(crate) spec: ModelSpec,
    pub(crate) team: Team,
    pub(crate) embedding: Embedding,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Norm,
    pub(crate) output: Linear,
    pub(crate) ropes: Vec<Rope>,
    pub(crate) buffers: Buffers,
}

/// Its parts, on the host unless said otherwise.
pub(crate) struct Layer<L = Linear, N = Norm, V = Vec<f32>> {
    /// Of what attention is given.
    pub attention_norm: Option<N>,
    pub query: L,
    pub key: L,
    pub value: L,
    pub query_norm: Option<N>,
    pub key_norm: Option<N>,
    /// Of each head, see [`Shape::sinks`].
    pub sinks: Option<V>,
    pub attention_output: L,
    /// Of what attention gives.
    pub attention_after: Option<N>,
    /// Of what the MLP is given, where that is not normed as what attention is given.
    pub mlp_norm: Option<N>,
    pub mlp: Mlp<L>,
    pub mlp_after: Option<N>,
}

impl Decoder {
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Memory of the weights.
    pub fn weight_bytes(&self) -> u64 {
        let layers = self.layers.iter().map(Layer::bytes).sum::<usize>();
        let output = if self.spec.tied_embeddings { bias_bytes(&self.output) } else { bytes(&self.output) };
        (self.embedding.bytes() + output + self.norm.bytes() + layers) as u64
    }

    /// Runs a batch: its rows' keys and values enter the cache, and the logits `[outputs, vocabulary]` of the rows
    /// in [`Batch::outputs`] come back. On an error nothing has entered the cache.
    pub fn forward(&mut self, batch: &Batch, cache: &mut KvCache, taps: &mut dyn Taps) -> Result<&[f32]> {
        self.run(batch, 0..self.layers.len(), cache, taps)?;
        Ok(self.logits(batch))
    }

    /// The same some layers at a time, in order and from the first on, so that other batches may be run in between; the
    /// logits come with the last.
    pub fn forward_layers(
        &mut self,
        batch: &Batch,
        layers: Range<usize>,
        cache: &mut KvCache,
    ) -> Result<Option<&[f32]>> {
        let last = layers.end == self.layers.len();
        // Between two calls nothing but the residual is kept.
        self.buffers.exchange_residuals();
        let run = self.run(batch, layers, cache, &mut NoTaps);
        let count = if last && run.is_ok() { self.logits(batch).len() } else { 0 };
        self.buffers.exchange_residuals();
        run?;
        Ok(last.then(|| &self.buffers.logits[..count]))
    }

    fn run(
        &mut self,
        batch: &Batch,
        layers: Range<usize>,
        cache: &mut KvCache,
        taps: &mut dyn Taps,
    ) -> Result<()> {
        self.buffers.grow(&self.spec, batch.tokens().len(), batch.outputs().len())?;
        if layers.start == 0 {
            batch.check(cache, self.spec.vocabulary_size)?;
            self.embed(batch)?;
        }
        for rope in &mut self.ropes {
            rope.prepare_batch(batch);
        }
        for layer in layers.clone() {
            self.attention(layer, batch, cache);
            self.show(HookPoint::Attention, layer, batch, taps);
            self.join_attention(layer, batch);
            self.mlp(layer, batch);
            self.show(HookPoint::Mlp, layer, batch, taps);
            self.join_mlp(layer, batch);
            if taps.wants(HookPoint::Residual, layer) {
                let residual = &self.buffers.residual[..batch.tokens().len() * self.spec.hidden_size];
                taps.take(HookPoint::Residual, layer, residual, batch);
            }
        }
        if layers.end == self.layers.len() {
            for segment in batch.segments() {
                cache.advance(segment.sequence, segment.rows.len());
            }
        }
        Ok(())
    }

    fn embed(&mut self, batch: &Batch) -> Result<()> {
        let Self { spec, embedding, buffers, .. } = self;
        let residual = sized(&mut buffers.residual, batch.tokens().len() * spec.hidden_size);
        embedding.rows(batch, residual, sized(&mut buffers.normed, spec.hidden_size))
    }

    /// `delta = attention(norm(residual))`.
    fn attention(&mut self, index: usize, batch: &Batch, cache: &mut KvCache) {
        let Self { spec, team, layers, ropes, buffers, .. } = self;
        let (layer, block) = (&layers[index], &spec.blocks[index]);
        let Buffers { residual, normed, queries, keys, values, mixed, delta, scratch, .. } = buffers;
        let (rows, steps) = (batch.tokens().len(), batch.steps());
        let (wide, narrow) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let input = given(team, spec.hidden_size, layer.attention_norm.as_ref(), residual, normed, rows);
        let queries = sized(queries, rows * wide);
        let keys = sized(keys, rows * narrow);
        let values = sized(values, rows * narrow);
        let layers = [(&layer.query, &mut *queries), (&layer.key, &mut *keys), (&layer.value, &mut *values)];
        together(team, steps, input, layers, scratch);
        let rope = block.rope.map(|rope| &ropes[rope]);
        let place = |norm: Option<&Norm>, row: usize, heads: &mut [f32]| {
            if let Some(norm) = norm {
                norm.row(heads);
            }
            if let Some(rope) = rope {
                rope.turn(row, heads, spec.head_dim);
            }
        };
        team.rows(queries, wide, |row, heads| place(layer.query_norm.as_ref(), row, heads));
        for segment in batch.segments() {
            for row in segment.rows.clone() {
                let key = &mut keys[row * narrow..(row + 1) * narrow];
                place(layer.key_norm.as_ref(), row, key);
                let value = &values[row * narrow..(row + 1) * narrow];
                cache.write(index, segment.sequence, batch.positions()[row], key, value);
            }
        }
        let shape = Shape::of(spec, block, layer.sinks.as_deref());
        let mixed = sized(mixed, rows * wide);
        attend(team, shape, cache, index, batch.segments(), queries, mixed);
        let delta = sized(delta, rows * spec.hidden_size);
        layer.attention_output.forward(team, steps, mixed, delta, scratch);
    }

    /// `delta = mlp(norm(residual))`.
    fn mlp(&mut self, index: usize, batch: &Batch) {
        let Self { spec, team, layers, buffers, .. } = self;
        let layer = &layers[index];
        let rows = batch.tokens().len();
        let Buffers { residual, normed, delta, mlp, scratch, .. } = buffers;
        let norm = match spec.norm.place {
            NormPlace::BeforeShared => layer.attention_norm.as_ref(),
            _ => layer.mlp_norm.as_ref(),
        };
        let input = given(team, spec.hidden_size, norm, residual, normed, rows);
        let delta = sized(delta, rows * spec.hidden_size);
        let mut pass = Pass { team, steps: batch.steps(), activation: spec.activation, scratch };
        layer.mlp.forward(&mut pass, mlp, input, delta);
    }

    /// Adds what attention gave to the residual, or lays it aside until the MLP has read that.
    fn join_attention(&mut self, index: usize, batch: &Batch) {
        let Self { spec, team, layers, buffers, .. } = self;
        let length = batch.tokens().len() * spec.hidden_size;
        finish(team, spec, layers[index].attention_after.as_ref(), &mut buffers.delta[..length]);
        if spec.parallel_residual {
            std::mem::swap(&mut buffers.delta, &mut buffers.held);
        } else {
            add_rows(team, spec.hidden_size, &mut buffers.residual[..length], &buffers.delta[..length]);
        }
    }

    fn join_mlp(&mut self, index: usize, batch: &Batch) {
        let Self { spec, team, layers, buffers, .. } = self;
        let length = batch.tokens().len() * spec.hidden_size;
        finish(team, spec, layers[index].mlp_after.as_ref(), &mut buffers.delta[..length]);
        if spec.parallel_residual {
            add_rows(team, spec.hidden_size, &mut buffers.delta[..length], &buffers.held[..length]);
        }
        add_rows(team, spec.hidden_size, &mut buffers.residual[..length], &buffers.delta[..length]);
    }

    /// Shows `delta` to who wants it.
    fn show(&mut self, point: HookPoint, layer: usize, batch: &Batch, taps: &mut dyn Taps) {
        if taps.wants(point, layer) {
            let length = batch.tokens().len() * self.spec.hidden_size;
            taps.take(point, layer, &self.buffers.delta[..length], batch);
        }
    }

    fn logits(&mut self, batch: &Batch) -> &[f32] {
        let Self { spec, team, norm, output, buffers, .. } = self;
        let hidden = spec.hidden_size;
        let normed = sized(&mut buffers.normed, batch.outputs().len() * hidden);
        for (out, row) in normed.chunks_exact_mut(hidden).zip(batch.outputs()) {
            out.copy_from_slice(&buffers.residual[row * hidden..(row + 1) * hidden]);
            norm.row(out);
        }
        let logits = sized(&mut buffers.logits, batch.outputs().len() * spec.vocabulary_size);
        if !batch.outputs().is_empty() {
            // Logits are a step's business, whoever asks.
            output.forward(team, batch.outputs().len(), normed, logits, &mut buffers.scratch);
        }
        scale(logits, spec.logit_scale);
        if let Some(cap) = spec.logit_soft_cap {
            for logit in &mut *logits {
                *logit = cap * tanh(*logit / cap);
            }
        }
        logits
    }
}

/// What a module is given: the residual, normed where there is a norm.
fn given<'a>(
    team: &Team,
    width: usize,
    norm: Option<&Norm>,
    residual: &'a [f32],
    normed: &'a mut Vec<f32>,
    rows: usize,
) -> &'a [f32] {
    let residual = &residual[..rows * width];
    let Some(norm) = norm else { return residual };
    let normed = sized(normed, rows * width);
    norm.rows(team, width, normed, residual);
    normed
}

/// Makes of what a module gave what is added to the residual.
fn finish(team: &Team, spec: &ModelSpec, norm: Option<&Norm>, delta: &mut [f32]) {
    if let Some(norm) = norm {
        norm.rows_in_place(team, spec.hidden_size, delta);
    }
    scale(delta, spec.residual_scale);
}

/// `out += x`, rows of `width` each.
fn add_rows(team: &Team, width: usize, out: &mut [f32], x: &[f32]) {
    team.rows(out, width, |row, out| add(out, &x[row * width..(row + 1) * width]));
}

impl Layer {
    fn bytes(&self) -> usize {
        let Self {
            attention_norm,
            query,
            key,
            value,
            query_norm,
            key_norm,
            sinks,
            attention_output,
            attention_after,
            mlp_norm,
            mlp,
            mlp_after,
        } = self;
        let norms = [attention_norm, query_norm, key_norm, attention_after, mlp_norm, mlp_after];
        let attention = [query, key, value, attention_output].into_iter().map(bytes).sum::<usize>();
        attention
            + sinks.as_ref().map_or(0, |sinks| 4 * sinks.len())
            + mlp.linears().into_iter().map(bytes).sum::<usize>()
            + norms.into_iter().flatten().map(Norm::bytes).sum::<usize>()
    }
}

fn bytes(linear: &Linear) -> usize {
    linear.weight.bytes() + bias_bytes(linear)
}

fn bias_bytes(linear: &Linear) -> usize {
    linear.bias.as_ref().map_or(0, |bias| 4 * bias.len())
}
