//! The decoder: one implementation for every family, for quantized weights or not, for one row or many, with hooks or
//! without. Families differ in fields of the spec and in tensors that exist or not.

use std::ops::Range;

use millm_model::ModelSpec;
use millm_model::arch::NormPlace;

use crate::error::Result;
use crate::forward::Forward;
use crate::forward::attention::{AttentionShape, KvLayer, attend};
use crate::forward::batch::Batch;
use crate::forward::embedding::{Embedding, scale};
use crate::forward::hooks::{HookPoint, Hooks, NoHooks};
use crate::forward::linear::{Linear, forward_together};
use crate::forward::mlp::{Mlp, MlpContext};
use crate::forward::norm::Norm;
use crate::forward::rope::Rope;
use crate::forward::workspace::{Workspace, sized};
use crate::kv_cache::{BlockCopy, BlockPool, HostKvStore, KvType};
use crate::sys::simd::{add, tanh};
use crate::sys::thread_pool::ThreadPool;

/// A model on the host.
pub struct Decoder {
    pub(crate) spec: ModelSpec,
    pub(crate) pool: ThreadPool,
    pub(crate) embedding: Embedding,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Norm,
    pub(crate) output: Linear,
    pub(crate) ropes: Vec<Rope>,
    pub(crate) kv_store: HostKvStore,
    pub(crate) workspace: Workspace,
    /// Numbers in the last pass's logits.
    pub(crate) logit_count: usize,
}

/// The parts of a layer. `L`, `N` and `V` are a linear layer, a norm and a vector on the device that runs it.
pub(crate) struct Layer<L = Linear, N = Norm, V = Vec<f32>> {
    /// Norms attention's input.
    pub attention_norm: Option<N>,
    pub query: L,
    pub key: L,
    pub value: L,
    pub query_norm: Option<N>,
    pub key_norm: Option<N>,
    /// One for each head, see [`AttentionShape::sinks`].
    pub sinks: Option<V>,
    pub attention_output: L,
    /// Norms attention's output.
    pub post_attention_norm: Option<N>,
    /// Norms the MLP's input, if that has other weights than attention's.
    pub mlp_norm: Option<N>,
    pub mlp: Mlp<L>,
    /// Norms the MLP's output.
    pub post_mlp_norm: Option<N>,
}

impl Forward for Decoder {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn weight_bytes(&self) -> u64 {
        let layers = self.layers.iter().map(Layer::bytes).sum::<usize>();
        let output =
            if self.spec.tied_embeddings { bias_bytes(&self.output) } else { linear_bytes(&self.output) };
        (self.embedding.bytes() + output + self.norm.bytes() + layers) as u64
    }

    fn forward(&mut self, batch: &Batch, blocks: &mut BlockPool, hooks: &mut dyn Hooks) -> Result<&[f32]> {
        self.run_layers(batch, 0..self.layers.len(), blocks, hooks)?;
        self.compute_logits(batch);
        Ok(self.logits())
    }

    fn forward_layers(
        &mut self,
        batch: &Batch,
        layers: Range<usize>,
        blocks: &mut BlockPool,
    ) -> Result<Option<&[f32]>> {
        let last = layers.end == self.layers.len();
        // Between two calls only the residual is kept.
        self.workspace.swap_residuals();
        let run = self.run_layers(batch, layers, blocks, &mut NoHooks);
        if last && run.is_ok() {
            self.compute_logits(batch);
        }
        self.workspace.swap_residuals();
        run?;
        Ok(last.then(|| self.logits()))
    }

    fn logits(&self) -> &[f32] {
        &self.workspace.logits[..self.logit_count]
    }

    fn copy_block(&mut self, copy: BlockCopy) -> Result<()> {
        self.kv_store.copy_block(copy);
        Ok(())
    }
}

impl Decoder {
    /// Replaces the KV cache by an empty one with room for `blocks` blocks.
    ///
    /// # Errors
    /// Returns an error if there is too little memory.
    pub fn with_kv_cache(self, kv_type: KvType, blocks: usize) -> Result<Self> {
        let kv_store = HostKvStore::new(&self.spec, kv_type, blocks)?;
        Ok(Self { kv_store, ..self })
    }

    fn run_layers(
        &mut self,
        batch: &Batch,
        layers: Range<usize>,
        blocks: &mut BlockPool,
        hooks: &mut dyn Hooks,
    ) -> Result<()> {
        self.workspace.grow(&self.spec, batch.tokens().len(), batch.outputs().len())?;
        if layers.start == 0 {
            batch.check(blocks, self.spec.vocabulary_size)?;
            self.embed(batch)?;
        }
        for rope in &mut self.ropes {
            rope.prepare_batch(batch);
        }
        for layer in layers.clone() {
            self.attention(layer, batch, blocks);
            self.show_delta(HookPoint::Attention, layer, batch, hooks);
            self.add_attention(layer, batch);
            self.mlp(layer, batch);
            self.show_delta(HookPoint::Mlp, layer, batch, hooks);
            self.add_mlp(layer, batch);
            if hooks.wants(HookPoint::Residual, layer) {
                let residual = &self.workspace.residual[..batch.tokens().len() * self.spec.hidden_size];
                hooks.receive(HookPoint::Residual, layer, residual, batch);
            }
        }
        if layers.end == self.layers.len() {
            for segment in batch.segments() {
                blocks.advance(segment.sequence, segment.rows.len());
            }
        }
        Ok(())
    }

    fn embed(&mut self, batch: &Batch) -> Result<()> {
        let Self { spec, embedding, workspace, .. } = self;
        let residual = sized(&mut workspace.residual, batch.tokens().len() * spec.hidden_size);
        embedding.embed(batch, residual, sized(&mut workspace.normed, spec.hidden_size))
    }

    /// Computes `delta = attention(norm(residual))`.
    fn attention(&mut self, index: usize, batch: &Batch, blocks: &BlockPool) {
        let Self { spec, pool, layers, ropes, kv_store, workspace, .. } = self;
        let (layer, layer_spec) = (&layers[index], &spec.layer_specs[index]);
        let Workspace { residual, normed, queries, keys, values, attended, delta, scratch, .. } = workspace;
        let (rows, decode_rows) = (batch.tokens().len(), batch.decode_rows());
        let (query_width, key_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let norm = layer.attention_norm.as_ref();
        let input = normed_input(pool, spec.hidden_size, norm, residual, normed, rows);
        let queries = sized(queries, rows * query_width);
        let keys = sized(keys, rows * key_width);
        let values = sized(values, rows * key_width);
        let layers = [(&layer.query, &mut *queries), (&layer.key, &mut *keys), (&layer.value, &mut *values)];
        forward_together(pool, decode_rows, input, layers, scratch);
        let rope = layer_spec.rope.map(|rope| &ropes[rope]);
        let norm_and_rotate = |norm: Option<&Norm>, row: usize, heads: &mut [f32]| {
            if let Some(norm) = norm {
                norm.row(heads);
            }
            if let Some(rope) = rope {
                rope.rotate(row, heads, spec.head_dim);
            }
        };
        pool.rows(queries, query_width, |row, heads| {
            norm_and_rotate(layer.query_norm.as_ref(), row, heads);
        });
        for segment in batch.segments() {
            let table = blocks.table(segment.sequence).expect("an open sequence: the batch was checked");
            for row in segment.rows.clone() {
                let key = &mut keys[row * key_width..(row + 1) * key_width];
                norm_and_rotate(layer.key_norm.as_ref(), row, key);
                let value = &values[row * key_width..(row + 1) * key_width];
                kv_store.write(index, table.slot(batch.positions()[row]), key, value);
            }
        }
        let shape = AttentionShape::of(spec, layer_spec, layer.sinks.as_deref());
        let attended = sized(attended, rows * query_width);
        let kv = KvLayer { blocks, store: kv_store, layer: index };
        attend(pool, shape, &kv, batch.segments(), queries, attended);
        let delta = sized(delta, rows * spec.hidden_size);
        layer.attention_output.forward(pool, decode_rows, attended, delta, scratch);
    }

    /// Computes `delta = mlp(norm(residual))`.
    fn mlp(&mut self, index: usize, batch: &Batch) {
        let Self { spec, pool, layers, workspace, .. } = self;
        let layer = &layers[index];
        let rows = batch.tokens().len();
        let Workspace { residual, normed, delta, mlp, scratch, .. } = workspace;
        let norm = match spec.norm.place {
            NormPlace::BeforeShared => layer.attention_norm.as_ref(),
            _ => layer.mlp_norm.as_ref(),
        };
        let input = normed_input(pool, spec.hidden_size, norm, residual, normed, rows);
        let delta = sized(delta, rows * spec.hidden_size);
        let (decode_rows, activation) = (batch.decode_rows(), spec.activation);
        let mut context = MlpContext { pool, decode_rows, activation, scratch };
        layer.mlp.forward(&mut context, mlp, input, delta);
    }

    /// Adds attention's output to the residual, or keeps it until the MLP has read the residual.
    fn add_attention(&mut self, index: usize, batch: &Batch) {
        let Self { spec, pool, layers, workspace, .. } = self;
        let length = batch.tokens().len() * spec.hidden_size;
        let norm = layers[index].post_attention_norm.as_ref();
        norm_and_scale(pool, spec, norm, &mut workspace.delta[..length]);
        if spec.parallel_residual {
            std::mem::swap(&mut workspace.delta, &mut workspace.attention_delta);
        } else {
            let delta = &workspace.delta[..length];
            add_rows(pool, spec.hidden_size, &mut workspace.residual[..length], delta);
        }
    }

    fn add_mlp(&mut self, index: usize, batch: &Batch) {
        let Self { spec, pool, layers, workspace, .. } = self;
        let length = batch.tokens().len() * spec.hidden_size;
        let norm = layers[index].post_mlp_norm.as_ref();
        norm_and_scale(pool, spec, norm, &mut workspace.delta[..length]);
        if spec.parallel_residual {
            let attention = &workspace.attention_delta[..length];
            add_rows(pool, spec.hidden_size, &mut workspace.delta[..length], attention);
        }
        add_rows(pool, spec.hidden_size, &mut workspace.residual[..length], &workspace.delta[..length]);
    }

    /// Shows `delta` to hooks that want it.
    fn show_delta(&mut self, point: HookPoint, layer: usize, batch: &Batch, hooks: &mut dyn Hooks) {
        if hooks.wants(point, layer) {
            let length = batch.tokens().len() * self.spec.hidden_size;
            hooks.receive(point, layer, &self.workspace.delta[..length], batch);
        }
    }

    /// Computes the logits of the batch's outputs from the residual.
    fn compute_logits(&mut self, batch: &Batch) {
        let Self { spec, pool, norm, output, workspace, logit_count, .. } = self;
        let hidden = spec.hidden_size;
        let normed = sized(&mut workspace.normed, batch.outputs().len() * hidden);
        for (out, row) in normed.chunks_exact_mut(hidden).zip(batch.outputs()) {
            out.copy_from_slice(&workspace.residual[row * hidden..(row + 1) * hidden]);
            norm.row(out);
        }
        *logit_count = batch.outputs().len() * spec.vocabulary_size;
        let logits = sized(&mut workspace.logits, *logit_count);
        if !batch.outputs().is_empty() {
            // The logits of prefill rows too are computed as those of decode rows.
            output.forward(pool, batch.outputs().len(), normed, logits, &mut workspace.scratch);
        }
        scale(logits, spec.logit_scale);
        if let Some(cap) = spec.logit_soft_cap {
            for logit in &mut *logits {
                *logit = cap * tanh(*logit / cap);
            }
        }
    }
}

/// Returns a module's input: the residual, `[rows, width]`, normed if there is a norm.
fn normed_input<'a>(
    pool: &ThreadPool,
    width: usize,
    norm: Option<&Norm>,
    residual: &'a [f32],
    normed: &'a mut Vec<f32>,
    rows: usize,
) -> &'a [f32] {
    let residual = &residual[..rows * width];
    let Some(norm) = norm else { return residual };
    let normed = sized(normed, rows * width);
    norm.rows(pool, width, normed, residual);
    normed
}

/// Turns a module's output into what is added to the residual.
fn norm_and_scale(pool: &ThreadPool, spec: &ModelSpec, norm: Option<&Norm>, delta: &mut [f32]) {
    if let Some(norm) = norm {
        norm.rows_in_place(pool, spec.hidden_size, delta);
    }
    scale(delta, spec.residual_scale);
}

/// Computes `out += x`, `[rows, width]` each.
fn add_rows(pool: &ThreadPool, width: usize, out: &mut [f32], x: &[f32]) {
    pool.rows(out, width, |row, out| add(out, &x[row * width..(row + 1) * width]));
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
            post_attention_norm,
            mlp_norm,
            mlp,
            post_mlp_norm,
        } = self;
        let norms = [attention_norm, query_norm, key_norm, post_attention_norm, mlp_norm, post_mlp_norm];
        let attention = [query, key, value, attention_output].into_iter().map(linear_bytes).sum::<usize>();
        attention
            + sinks.as_ref().map_or(0, |sinks| 4 * sinks.len())
            + mlp.linears().into_iter().map(linear_bytes).sum::<usize>()
            + norms.into_iter().flatten().map(Norm::bytes).sum::<usize>()
    }
}

fn linear_bytes(linear: &Linear) -> usize {
    linear.weight.bytes() + bias_bytes(linear)
}

fn bias_bytes(linear: &Linear) -> usize {
    linear.bias.as_ref().map_or(0, |bias| 4 * bias.len())
}
