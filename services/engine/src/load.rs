//! From a checkpoint to a decoder: each tensor by its canonical name, its shape held against the spec.

use millm_model::spec::{MlpKind, NormPlace, NormSpec, QkNorm};
use millm_model::{Checkpoint, ModelSpec};

use crate::activations::Buffers;
use crate::decoder::{Decoder, Layer};
use crate::error::{Error, Result};
use crate::linear::{Linear, Weight, read_vector};
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
        check(&spec)?;
        let mut reader =
            Reader { checkpoint, team: &team, progress, read: 0, total: spec.expected_tensors().len() };
        let (hidden, vocabulary) = (spec.hidden_size, spec.vocabulary_size);
        let embedding = reader.weight("token_embd.weight", vocabulary, hidden)?;
        let table = |rows: usize| reader.weight("position_embd.weight", rows, hidden);
        let positions = spec.learned_positions.map(table).transpose()?;
        let layers = (0..spec.layers).map(|index| reader.layer(&spec, index)).collect::<Result<_>>()?;
        let norm = reader.norm(&spec, "output_norm")?;
        let output = if spec.tied_embeddings {
            let bias = spec.logit_bias.then(|| reader.vector("output.bias", vocabulary)).transpose()?;
            Linear { weight: embedding.clone(), bias }
        } else {
            reader.linear("output", vocabulary, hidden, spec.logit_bias)?
        };
        let ropes = spec.ropes.iter().cloned().map(Rope::new).collect();
        let buffers = Buffers::new(&spec, rows, outputs)?;
        Ok(Self { spec, team, embedding, positions, layers, norm, output, ropes, buffers })
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

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    team: &'a Team,
    progress: &'a mut dyn FnMut(LoadProgress<'_>),
    read: usize,
    total: usize,
}

impl Reader<'_> {
    fn layer(&mut self, spec: &ModelSpec, index: usize) -> Result<Layer> {
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
            attention_output: self.linear(&name("attn_output"), hidden, queries, spec.output_bias)?,
            attention_after: self.norm_if(place.after(), spec, &name("post_attention_norm"))?,
            mlp_norm: self.norm_if(of_its_own, spec, &name("ffn_norm"))?,
            mlp: self.mlp(spec, index)?,
            mlp_after: self.norm_if(place.after(), spec, &name("post_ffw_norm"))?,
        })
    }

    fn mlp(&mut self, spec: &ModelSpec, index: usize) -> Result<Mlp> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let Some(choice) = spec.experts.filter(|_| spec.blocks[index].experts) else {
            return Ok(Mlp::One(self.hidden(spec, spec.intermediate_size, &name)?));
        };
        let router = self.linear(&name("ffn_gate_inp"), choice.count, spec.hidden_size, false)?;
        let one =
            |expert| self.hidden(spec, choice.intermediate_size, &|part| name(&format!("{part}.{expert}")));
        let each = (0..choice.count).map(one).collect::<Result<_>>()?;
        Ok(Mlp::Experts(Experts { router, each, choice }))
    }

    fn hidden(&mut self, spec: &ModelSpec, inner: usize, name: &dyn Fn(&str) -> String) -> Result<Hidden> {
        let (hidden, bias) = (spec.hidden_size, spec.mlp_bias);
        let gated = spec.mlp == MlpKind::Gated;
        Ok(Hidden {
            gate: gated.then(|| self.linear(&name("ffn_gate"), inner, hidden, bias)).transpose()?,
            up: self.linear(&name("ffn_up"), inner, hidden, bias)?,
            down: self.linear(&name("ffn_down"), hidden, inner, bias)?,
        })
    }

    fn norm_if(&mut self, there: bool, spec: &ModelSpec, name: &str) -> Result<Option<Norm>> {
        there.then(|| self.norm(spec, name)).transpose()
    }

    fn norm(&mut self, spec: &ModelSpec, name: &str) -> Result<Norm> {
        self.spans(spec, name, spec.hidden_size, spec.hidden_size)
    }

    /// Of queries or keys, where they are normed.
    fn head_norm(&mut self, spec: &ModelSpec, name: &str, heads: usize) -> Result<Option<Norm>> {
        let all = heads * spec.head_dim;
        Ok(match spec.qk_norm {
            None => None,
            Some(QkNorm::PerHead) => Some(self.spans(spec, name, spec.head_dim, spec.head_dim)?),
            Some(QkNorm::EachHead) => Some(self.spans(spec, name, spec.head_dim, all)?),
            Some(QkNorm::Whole) => Some(self.spans(spec, name, all, all)?),
        })
    }

    fn spans(&mut self, spec: &ModelSpec, name: &str, span: usize, length: usize) -> Result<Norm> {
        let NormSpec { kind, eps, bias, offset, .. } = spec.norm;
        let mut weight = self.vector(&format!("{name}.weight"), length)?;
        for weight in &mut weight {
            *weight += offset;
        }
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), length)).transpose()?;
        Ok(Norm { kind, eps: eps as f32, span, weight, bias })
    }

    fn linear(&mut self, name: &str, rows: usize, columns: usize, bias: bool) -> Result<Linear> {
        let weight = self.weight(&format!("{name}.weight"), rows, columns)?;
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), rows)).transpose()?;
        Ok(Linear { weight, bias })
    }

    fn weight(&mut self, name: &str, rows: usize, columns: usize) -> Result<Weight> {
        let tensor = self.checkpoint.tensor(name)?;
        let weight = Weight::read(self.team, tensor.data(), rows, columns)?;
        self.count(name);
        Ok(weight)
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
