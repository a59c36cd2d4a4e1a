//! Canonical names of tensors, and the names under which files store them: alone, as a part of a larger tensor, or
//! transposed.

/// A canonical name and its place in a file. Each `{}` stands for a number: the layer's, then the expert's.
#[derive(Debug, Clone, Copy)]
pub struct TensorName {
    /// The canonical name: `blk.{}.attn_q.weight`.
    pub canonical: &'static str,
    /// The file's name: `model.layers.{}.self_attn.q_proj.weight`.
    pub stored: &'static str,
    /// The rows of the stored tensor that belong to the canonical one.
    pub rows: Rows,
    /// The file stores `[in, out]`, alone or in a stack; `rows` are those of `[out, in]`.
    pub transposed: bool,
}

/// A selection of rows of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// All rows.
    All,
    /// The tensor holds all queries, then all keys, then all values: 0, 1 or 2 selects one of the three.
    Qkv(usize),
    /// Like `Qkv`, but the three follow each other within each head.
    HeadQkv(usize),
    /// The tensor holds all of gate, then all of up: 0 or 1 selects one of the two.
    GateUp(usize),
    /// The tensor is a stack of matrices, one for each expert. The name has the number of the expert.
    Expert,
    /// Like `Expert`, but each matrix holds all of gate, then all of up.
    ExpertGateUp(usize),
    /// Like `ExpertGateUp`, but the rows of gate and up alternate.
    ExpertInterleaved(usize),
}

/// Names a tensor that the file stores alone.
pub(crate) const fn tensor(canonical: &'static str, stored: &'static str) -> TensorName {
    part(canonical, stored, Rows::All)
}

/// Names a tensor that is a part of a stored one.
pub(crate) const fn part(canonical: &'static str, stored: &'static str, rows: Rows) -> TensorName {
    TensorName { canonical, stored, rows, transposed: false }
}

/// Names a tensor that the file stores as `[in, out]`.
pub(crate) const fn transposed(canonical: &'static str, stored: &'static str, rows: Rows) -> TensorName {
    TensorName { canonical, stored, rows, transposed: true }
}

/// The fused and stacked tensors that any GGUF file may have. Families with other conventions list them themselves
/// ([`GgufFormat::names`](super::family::GgufFormat::names)).
pub(crate) const GGUF_FUSED: &[TensorName] = &[
    part("blk.{}.attn_q.weight", "blk.{}.attn_qkv.weight", Rows::Qkv(0)),
    part("blk.{}.attn_k.weight", "blk.{}.attn_qkv.weight", Rows::Qkv(1)),
    part("blk.{}.attn_v.weight", "blk.{}.attn_qkv.weight", Rows::Qkv(2)),
    part("blk.{}.attn_q.bias", "blk.{}.attn_qkv.bias", Rows::Qkv(0)),
    part("blk.{}.attn_k.bias", "blk.{}.attn_qkv.bias", Rows::Qkv(1)),
    part("blk.{}.attn_v.bias", "blk.{}.attn_qkv.bias", Rows::Qkv(2)),
    part("blk.{}.ffn_gate.{}.weight", "blk.{}.ffn_gate_exps.weight", Rows::Expert),
    part("blk.{}.ffn_up.{}.weight", "blk.{}.ffn_up_exps.weight", Rows::Expert),
    part("blk.{}.ffn_down.{}.weight", "blk.{}.ffn_down_exps.weight", Rows::Expert),
    part("blk.{}.ffn_gate.{}.weight", "blk.{}.ffn_gate_up_exps.weight", Rows::ExpertGateUp(0)),
    part("blk.{}.ffn_up.{}.weight", "blk.{}.ffn_gate_up_exps.weight", Rows::ExpertGateUp(1)),
    part("blk.{}.ffn_gate.{}.bias", "blk.{}.ffn_gate_exps.bias", Rows::Expert),
    part("blk.{}.ffn_up.{}.bias", "blk.{}.ffn_up_exps.bias", Rows::Expert),
    part("blk.{}.ffn_down.{}.bias", "blk.{}.ffn_down_exps.bias", Rows::Expert),
];

/// The GGUF names of families whose gate and up are one tensor, called `ffn_up`.
pub(crate) const GGUF_GATE_UP: &[TensorName] = &[
    part("blk.{}.ffn_gate.weight", "blk.{}.ffn_up.weight", Rows::GateUp(0)),
    part("blk.{}.ffn_up.weight", "blk.{}.ffn_up.weight", Rows::GateUp(1)),
];
