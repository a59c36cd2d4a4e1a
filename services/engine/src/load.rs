//! From a checkpoint to a decoder: each tensor by its canonical name, its shape held against the spec.

use millm_model::spec::{MlpKind, NormPlace, NormSpec, QkNorm};
use millm_model::{Checkpoint, ModelSpec, TensorData};

use crate::activations::Buffers;
use crate::decoder::{Decoder, Layer};
use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::linear::{Linear, Weight, check_shape, read_vector};
use crate::mlp::{Experts, Hidden, Mlp};
use crate::norm::Norm;
use crate::rope::Rope;
use crate::team::Team;

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadProgress<'a> {
    pub stage: LoadStage,
    /// Of the whole load, 0 to 1, never falling.
    pub fraction: f32,
    /// Canonical name of the tensor just read, while weights are read.
    pub tensor: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadStage {
    Weights,
    /// KV cache and activations.
    Cache,
    Ready,
}

/// The weights' part of the whole load.
const WEIGHTS: f32 = 0.98;

impl Decoder {
    /// Copies the weights into memory of its own; the checkpoint may go afterwards. Batches of up to `rows` rows
    /// and `outputs` of logits need no further memory.
    pub fn load(
        checkpoint: &Checkpoint,
        team: Team,
        (rows, outputs): (usize, usize),
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<Self> {
        let spec = checkpoint.spec().clone();
        let mut reader = Reader::new(checkpoint, &team, progress)?;
        let embedding = reader.embedding(&spec)?;
        let layers = reader.layers(&spec)?;
        let norm = reader.norm(&spec, "output_norm")?;
        let output = if spec.tied_embeddings {
            Linear { weight: embedding.table.clone(), bias: reader.logit_bias(&spec)? }
        } else {
            reader.linear("output", spec.vocabulary_size, spec.hidden_size, spec.logit_bias)?
        };
        let ropes = spec.ropes.iter().cloned().map(Rope::new).collect();
        let buffers = Buffers::new(&spec, rows, outputs)?;
        Ok(Self { spec, team, embedding, layers, norm, output, ropes, buffers })
    }
}

/// What becomes of tensors, where they are to be worked with.
pub(crate) trait Make {
    type Linear;
    type Norm;
    type Vector;

    /// A table whose rows the host takes.
    fn table(&self, data: TensorData<'_>, rows: usize, columns: usize) -> Result<Weight>;

    /// `data` has the shape `[rows, columns]`.
    fn linear(&self, data: TensorData<'_>, bias: Option<Vec<f32>>) -> Result<Self::Linear>;

    fn norm(&self, norm: Norm) -> Result<Self::Norm>;

    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;
}

type LayerOf<M> = Layer<<M as Make>::Linear, <M as Make>::Norm, <M as Make>::Vector>;

impl Make for Team {
    type Linear = Linear;
    type Norm = Norm;
    type Vector = Vec<f32>;

    fn table(&self, data: TensorData<'_>, rows: usize, columns: usize) -> Result<Weight> {
        Weight::read(self, data, rows, columns)
    }

    fn linear(&self, data: TensorData<'_>, bias: Option<Vec<f32>>) -> Result<Linear> {
        let [rows, columns] = data.info.shape[..] else { unreachable!("a matrix, as was checked") };
        Ok(Linear { weight: Weight::read(self, data, rows, columns)?, bias })
    }

    fn norm(&self, norm: Norm) -> Result<Norm> {
        Ok(norm)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }
}

/// What the kernels rely on; the model crate has checked the same, but a panic here would be in a running server.
fn check(spec: &ModelSpec) -> Result<()> {
    let refuse = |option, value, why| Err(Error::Option { option, value, why });
    if spec.kv_heads == 0 || spec.head_dim == 0 || !spec.heads.is_multiple_of(spec.kv_heads) {
        return refuse("kv_heads", spec.kv_heads, "must divide the number of heads");
    }
    if let Some(rope) = spec.ropes.iter().find(|rope| rope.dimensions() > spec.head_dim) {
        return refuse("rope dimensions", rope.dimensions(), "must fit the head");
    }
    if spec.blocks.len() != spec.layers {
        return refuse("blocks", spec.blocks.len(), "must be one for each layer");
    }
    for block in &spec.blocks {
        if block.window == Some(0) {
            return refuse("window", 0, "a token sees at least itself");
        }
        if let Some(rope) = block.rope.filter(|rope| *rope >= spec.ropes.len()) {
            return refuse("rope", rope, "must be one of the spec's");
        }
    }
    if let Some(experts) = spec.experts.filter(|experts| experts.used == 0 || experts.used > experts.count) {
        return refuse("experts used", experts.used, "must be among those that there are");
    }
    Ok(())
}

/// Reads a checkpoint's tensors one by one.
pub(crate) struct Reader<'a, M> {
    checkpoint: &'a Checkpoint,
    make: &'a M,
    progress: &'a mut dyn FnMut(LoadProgress<'_>),
    read: usize,
    total: usize,
}

impl<'a, M: Make> Reader<'a, M> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        make: &'a M,
        progress: &'a mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<Self> {
        check(checkpoint.spec())?;
        let total = checkpoint.spec().expected_tensors().len();
        Ok(Self { checkpoint, make, progress, read: 0, total })
    }

    pub fn embedding(&mut self, spec: &ModelSpec) -> Result<Embedding> {
        let table = self.table("token_embd.weight", spec.vocabulary_size, spec.hidden_size)?;
        let positions = |rows: usize| self.table("position_embd.weight", rows, spec.hidden_size);
        let positions = spec.learned_positions.map(positions).transpose()?;
        Ok(Embedding { table, positions, scale: spec.embedding_scale })
    }

    pub fn layers(&mut self, spec: &ModelSpec) -> Result<Vec<LayerOf<M>>> {
        (0..spec.layers).map(|index| self.layer(spec, index)).collect()
    }

    pub fn logit_bias(&mut self, spec: &ModelSpec) -> Result<Option<Vec<f32>>> {
        spec.logit_bias.then(|| self.vector("output.bias", spec.vocabulary_size)).transpose()
    }

    fn layer(&mut self, spec: &ModelSpec, index: usize) -> Result<LayerOf<M>> {
        let (queries, keys, hidden) =
            (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.hidden_size);
        let name = |part: &str| format!("blk.{index}.{part}");
        let place = spec.norm.place;
        let of_its_own = place.before() && place != NormPlace::BeforeShared;
        Ok(Layer {
            attention_norm: self.norm_if(place.before(), spec, &name("attn_norm"))?,
            query: self.linear(&name("attn_q"), queries, hidden, spec.qkv_bias)?,
            key: self.linear(&name("attn_k"), keys, hidden, spec.qkv_bias)?,
            value: self.linear(&name("attn_v"), keys, hidden, spec.qkv_bias)?,
            query_norm: self.head_norm(spec, &name("attn_q_norm"), spec.heads)?,
            key_norm: self.head_norm(spec, &name("attn_k_norm"), spec.kv_heads)?,
            sinks: self.sinks(spec, &name("attn_sinks.weight"))?,
            attention_output: self.linear(&name("attn_output"), hidden, queries, spec.output_bias)?,
            attention_after: self.norm_if(place.after(), spec, &name("post_attention_norm"))?,
            mlp_norm: self.norm_if(of_its_own, spec, &name("ffn_norm"))?,
            mlp: self.mlp(spec, index)?,
            mlp_after: self.norm_if(place.after(), spec, &name("post_ffw_norm"))?,
        })
    }

    fn mlp(&mut self, spec: &ModelSpec, index: usize) -> Result<Mlp<M::Linear>> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let Some(choice) = spec.experts.filter(|_| spec.blocks[index].experts) else {
            return Ok(Mlp::One(self.hidden(spec, spec.intermediate_size, &name)?));
        };
        let router =
            self.linear(&name("ffn_gate_inp"), choice.count, spec.hidden_size, choice.router_bias)?;
        let one =
            |expert| self.hidden(spec, choice.intermediate_size, &|part| name(&format!("{part}.{expert}")));
        let each = (0..choice.count).map(one).collect::<Result<_>>()?;
        Ok(Mlp::Experts(Experts { router, each, choice }))
    }

    fn hidden(
        &mut self,
        spec: &ModelSpec,
        inner: usize,
        name: &dyn Fn(&str) -> String,
    ) -> Result<Hidden<M::Linear>> {
        let (hidden, bias) = (spec.hidden_size, spec.mlp_bias);
        let gated = spec.mlp == MlpKind::Gated;
        Ok(Hidden {
            gate: gated.then(|| self.linear(&name("ffn_gate"), inner, hidden, bias)).transpose()?,
            up: self.linear(&name("ffn_up"), inner, hidden, bias)?,
            down: self.linear(&name("ffn_down"), hidden, inner, bias)?,
        })
    }

    fn sinks(&mut self, spec: &ModelSpec, name: &str) -> Result<Option<M::Vector>> {
        let sinks = spec.sinks.then(|| self.vector(name, spec.heads)).transpose()?;
        sinks.map(|sinks| self.make.vector(sinks)).transpose()
    }

    fn norm_if(&mut self, there: bool, spec: &ModelSpec, name: &str) -> Result<Option<M::Norm>> {
        there.then(|| self.norm(spec, name)).transpose()
    }

    pub fn norm(&mut self, spec: &ModelSpec, name: &str) -> Result<M::Norm> {
        self.spans(spec, name, spec.hidden_size, spec.hidden_size)
    }

    /// Of queries or keys, where they are normed.
    fn head_norm(&mut self, spec: &ModelSpec, name: &str, heads: usize) -> Result<Option<M::Norm>> {
        let all = heads * spec.head_dim;
        Ok(match spec.qk_norm {
            None => None,
            Some(QkNorm::PerHead) => Some(self.spans(spec, name, spec.head_dim, spec.head_dim)?),
            Some(QkNorm::EachHead) => Some(self.spans(spec, name, spec.head_dim, all)?),
            Some(QkNorm::Whole) => Some(self.spans(spec, name, all, all)?),
        })
    }

    fn spans(&mut self, spec: &ModelSpec, name: &str, span: usize, length: usize) -> Result<M::Norm> {
        let NormSpec { kind, eps, bias, offset, .. } = spec.norm;
        let mut weight = self.vector(&format!("{name}.weight"), length)?;
        for weight in &mut weight {
            *weight += offset;
        }
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), length)).transpose()?;
        self.make.norm(Norm { kind, eps: eps as f32, span, weight, bias })
    }

    pub fn linear(&mut self, name: &str, rows: usize, columns: usize, bias: bool) -> Result<M::Linear> {
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), rows)).transpose()?;
        let name = format!("{name}.weight");
        let tensor = self.checkpoint.tensor(&name)?;
        check_shape(tensor.data(), &[rows, columns])?;
        let linear = self.make.linear(tensor.data(), bias)?;
        self.count(&name);
        Ok(linear)
    }

    fn table(&mut self, name: &str, rows: usize, columns: usize) -> Result<Weight> {
        let table = self.make.table(self.checkpoint.tensor(name)?.data(), rows, columns)?;
        self.count(name);
        Ok(table)
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>> {
        let vector = read_vector(self.checkpoint.tensor(name)?.data(), length)?;
        self.count(name);
        Ok(vector)
    }

    fn count(&mut self, name: &str) {
        self.read += 1;
        let fraction = WEIGHTS * self.read as f32 / self.total as f32;
        (self.progress)(LoadProgress { stage: LoadStage::Weights, fraction, tensor: Some(name) });
    }
}
