//! The decoder: one implementation for every family, for quantized weights or not, for one row or many, with hooks or
//! without. Families differ in fields of the spec and in tensors that exist or not.

use std::ops::Range;

use millm_model::ModelSpec;
use millm_model::arch::NormPlace;

use crate::error::Result;
use crate::forward::Forward;
use crate::forward::attention::{AttentionShape, KvLayer, attend, soft_capped};
use crate::forward::attention_pattern::AttentionPattern;
use crate::forward::batch::Batch;
use crate::forward::embedding::{Embedding, scale};
use crate::forward::hooks::{Hook, HookPoint, Hooks};
use crate::forward::linear::{Linear, forward_together};
use crate::forward::mlp::{Mlp, MlpContext};
use crate::forward::norm::Norm;
use crate::forward::observe::Observer;
use crate::forward::rope::Rope;
use crate::forward::workspace::{Workspace, sized};
use crate::kv_cache::{BlockCopy, BlockPool, HostKvStore, KvType};
use crate::sys::simd::add;
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
        let observer = &mut Observer::new(hooks, batch);
        self.run_layers(0..self.layers.len(), blocks, observer)?;
        self.compute_logits(observer);
        Ok(self.logits())
    }

    fn forward_layers(
        &mut self,
        batch: &Batch,
        layers: Range<usize>,
        blocks: &mut BlockPool,
        hooks: &mut dyn Hooks,
    ) -> Result<Option<&[f32]>> {
        let observer = &mut Observer::new(hooks, batch);
        let last = layers.end == self.layers.len();
        // Between two calls only the residual is kept.
        self.workspace.swap_residuals();
        let run = self.run_layers(layers, blocks, observer);
        if last && run.is_ok() {
            self.compute_logits(observer);
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
        layers: Range<usize>,
        blocks: &mut BlockPool,
        observer: &mut Observer<'_>,
    ) -> Result<()> {
        let batch = observer.batch();
        self.workspace.grow(&self.spec, batch.tokens().len(), batch.outputs().len())?;
        if layers.start == 0 {
            batch.check(blocks, self.spec.vocabulary_size)?;
            self.embed(observer)?;
        }
        for rope in &mut self.ropes {
            rope.prepare_batch(batch);
        }
        let length = batch.tokens().len() * self.spec.hidden_size;
        for layer in layers.clone() {
            observer.show(Hook::at(HookPoint::ResidPre, layer), &self.workspace.residual[..length]);
            self.attention(layer, blocks, observer);
            self.add_attention(layer, observer);
            self.mlp(layer, observer);
            self.add_mlp(layer, observer);
            observer.show(Hook::at(HookPoint::ResidPost, layer), &self.workspace.residual[..length]);
        }
        if layers.end == self.layers.len() {
            for segment in batch.segments() {
                blocks.advance(segment.sequence, segment.rows.len());
            }
        }
        Ok(())
    }

    fn embed(&mut self, observer: &mut Observer<'_>) -> Result<()> {
        let Self { spec, embedding, workspace, .. } = self;
        let batch = observer.batch();
        let residual = sized(&mut workspace.residual, batch.tokens().len() * spec.hidden_size);
        embedding.embed(batch, residual);
        observer.show(Hook::global(HookPoint::Embed), residual);
        embedding.add_positions(batch, residual, sized(&mut workspace.normed, spec.hidden_size))
    }

    /// Computes `delta = attention(norm(residual))`.
    fn attention(&mut self, index: usize, blocks: &BlockPool, observer: &mut Observer<'_>) {
        let Self { spec, pool, layers, ropes, kv_store, workspace, .. } = self;
        let (layer, layer_spec, batch) = (&layers[index], &spec.layer_specs[index], observer.batch());
        let Workspace { residual, normed, queries, keys, values, attended, delta, scratch, .. } = workspace;
        let (rows, decode_rows) = (batch.tokens().len(), batch.decode_rows());
        let (query_width, key_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let norm = layer.attention_norm.as_ref();
        let residual = &residual[..rows * spec.hidden_size];
        observer.show_before_gain(Hook::at(HookPoint::AttnNorm, index), pool, norm, residual);
        let input = normed_input(pool, spec.hidden_size, norm, residual, normed);
        observer.show(Hook::at(HookPoint::AttnIn, index), input);
        let queries = sized(queries, rows * query_width);
        let keys = sized(keys, rows * key_width);
        let values = sized(values, rows * key_width);
        let layers = [(&layer.query, &mut *queries), (&layer.key, &mut *keys), (&layer.value, &mut *values)];
        forward_together(pool, decode_rows, input, layers, scratch);
        observer.show_heads(Hook::at(HookPoint::Query, index), spec, queries);
        observer.show_heads(Hook::at(HookPoint::Key, index), spec, keys);
        observer.show(Hook::at(HookPoint::Value, index), values);
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
        observer.show_heads(Hook::at(HookPoint::QueryRotated, index), spec, queries);
        observer.show_heads(Hook::at(HookPoint::KeyRotated, index), spec, keys);
        let shape = AttentionShape::of(spec, layer_spec, layer.sinks.as_deref());
        let kv = KvLayer { blocks, store: kv_store, layer: index };
        let pattern = AttentionPattern { pool, shape, kv };
        pattern.show(queries, observer);
        let attended = sized(attended, rows * query_width);
        attend(pool, pattern.shape, &pattern.kv, batch.segments(), queries, attended);
        observer.show(Hook::at(HookPoint::HeadOutput, index), attended);
        let delta = sized(delta, rows * spec.hidden_size);
        layer.attention_output.forward(pool, decode_rows, attended, delta, scratch);
        observer.show(Hook::at(HookPoint::Attn, index), delta);
    }

    /// Computes `delta = mlp(norm(residual))`.
    fn mlp(&mut self, index: usize, observer: &mut Observer<'_>) {
        let Self { spec, pool, layers, workspace, .. } = self;
        let (layer, batch) = (&layers[index], observer.batch());
        let rows = batch.tokens().len();
        let Workspace { residual, normed, delta, mlp, scratch, .. } = workspace;
        let norm = match spec.norm.place {
            NormPlace::BeforeShared => layer.attention_norm.as_ref(),
            _ => layer.mlp_norm.as_ref(),
        };
        let residual = &residual[..rows * spec.hidden_size];
        observer.show_before_gain(Hook::at(HookPoint::MlpNorm, index), pool, norm, residual);
        let input = normed_input(pool, spec.hidden_size, norm, residual, normed);
        observer.show(Hook::at(HookPoint::MlpIn, index), input);
        let delta = sized(delta, rows * spec.hidden_size);
        let (decode_rows, activation) = (batch.decode_rows(), spec.activation);
        let mut context =
            MlpContext { pool, layer: index, decode_rows, activation, scratch, observer: &mut *observer };
        layer.mlp.forward(&mut context, mlp, input, delta);
        observer.show(Hook::at(HookPoint::Mlp, index), delta);
    }

    /// Adds attention's output to the residual, or keeps it until the MLP has read the residual.
    fn add_attention(&mut self, index: usize, observer: &mut Observer<'_>) {
        let Self { spec, pool, layers, workspace, .. } = self;
        let length = observer.batch().tokens().len() * spec.hidden_size;
        let norm = layers[index].post_attention_norm.as_ref();
        let delta = &mut workspace.delta[..length];
        norm_and_scale(pool, spec, norm, delta);
        observer.show(Hook::at(HookPoint::AttnOut, index), delta);
        if spec.parallel_residual {
            std::mem::swap(&mut workspace.delta, &mut workspace.attention_delta);
        } else {
            let residual = &mut workspace.residual[..length];
            add_rows(pool, spec.hidden_size, residual, delta);
            observer.show(Hook::at(HookPoint::ResidMid, index), residual);
        }
    }

    fn add_mlp(&mut self, index: usize, observer: &mut Observer<'_>) {
        let Self { spec, pool, layers, workspace, .. } = self;
        let length = observer.batch().tokens().len() * spec.hidden_size;
        let norm = layers[index].post_mlp_norm.as_ref();
        let delta = &mut workspace.delta[..length];
        norm_and_scale(pool, spec, norm, delta);
        observer.show(Hook::at(HookPoint::MlpOut, index), delta);
        if spec.parallel_residual {
            add_rows(pool, spec.hidden_size, delta, &workspace.attention_delta[..length]);
        }
        add_rows(pool, spec.hidden_size, &mut workspace.residual[..length], delta);
    }

    /// Computes the logits of the batch's outputs from the residual.
    fn compute_logits(&mut self, observer: &mut Observer<'_>) {
        let Self { spec, pool, norm, output, workspace, logit_count, .. } = self;
        let (hidden, batch) = (spec.hidden_size, observer.batch());
        let residual = &workspace.residual[..batch.tokens().len() * hidden];
        observer.show_normed(Hook::global(HookPoint::FinalNorm), pool, norm, residual);
        let normed = sized(&mut workspace.normed, batch.outputs().len() * hidden);
        for (out, row) in normed.chunks_exact_mut(hidden).zip(batch.outputs()) {
            out.copy_from_slice(&residual[row * hidden..(row + 1) * hidden]);
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
                *logit = soft_capped(*logit, cap);
            }
        }
        observer.show(Hook::global(HookPoint::Logits), logits);
    }
}

/// Returns a module's input: the residual, `[rows, width]`, normed if there is a norm.
fn normed_input<'a>(
    pool: &ThreadPool,
    width: usize,
    norm: Option<&Norm>,
    residual: &'a [f32],
    normed: &'a mut Vec<f32>,
) -> &'a [f32] {
    let Some(norm) = norm else { return residual };
    let normed = sized(normed, residual.len());
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
