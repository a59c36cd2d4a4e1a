//! Canonical names of tensors, and where files keep them: under other names, within larger tensors, or turned on their
//! side.

use crate::spec::ModelSpec;

/// Where a tensor lies in a file. Each `{}` stands for a number: of the layer, then of the expert.
#[derive(Debug, Clone, Copy)]
pub struct TensorName {
    pub canonical: &'static str,
    pub stored: &'static str,
    pub rows: Rows,
    /// Stored `[in, out]`, alone or in a stack; `rows` are those of `[out, in]`.
    pub transposed: bool,
}

/// Which rows of the stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    All,
    /// All queries, then all keys, then all values: which of the three.
    Qkv(usize),
    /// The same for each head.
    HeadQkv(usize),
    /// All of gate, then all of up: which of the two.
    GateUp(usize),
    /// One matrix of a stack: that of the expert.
    Expert,
    /// Gate or up of the expert's matrix.
    ExpertGateUp(usize),
    /// The same where rows of gate and up take turns.
    ExpertTurns(usize),
}

pub const fn tensor(canonical: &'static str, stored: &'static str) -> TensorName {
    part(canonical, stored, Rows::All)
}

pub const fn part(canonical: &'static str, stored: &'static str, rows: Rows) -> TensorName {
    TensorName { canonical, stored, rows, transposed: false }
}

/// Stored `[in, out]`.
pub const fn turned(canonical: &'static str, stored: &'static str, rows: Rows) -> TensorName {
    TensorName { canonical, stored, rows, transposed: true }
}

/// How any GGUF file may keep what it does not keep by itself. Families with other habits say so beside.
pub const GGUF_FUSED: &[TensorName] = &[
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

/// GGUF of families whose gate and up are one tensor, called `ffn_up`.
pub const GGUF_GATE_UP: &[TensorName] = &[
    part("blk.{}.ffn_gate.weight", "blk.{}.ffn_up.weight", Rows::GateUp(0)),
    part("blk.{}.ffn_up.weight", "blk.{}.ffn_up.weight", Rows::GateUp(1)),
];

/// Rows of a stored tensor, evenly spread: `count` times `length` rows, each run `stride` after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    pub first: usize,
    pub length: usize,
    pub stride: usize,
    pub count: usize,
}

/// A tensor of a model as a file keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub stored: String,
    /// What the stored tensor's shape must be.
    pub shape: Vec<usize>,
    pub runs: Runs,
    pub transposed: bool,
}

impl TensorName {
    /// Where the tensor `canonical` of this shape is; `None` where this is not its name.
    pub fn keeps(&self, canonical: &str, shape: &[usize], spec: &ModelSpec) -> Option<Kept> {
        let numbers = numbers(canonical, self.canonical)?;
        let mut stored = self.stored.to_owned();
        for number in &numbers {
            stored = stored.replacen("{}", &number.to_string(), 1);
        }
        let expert = numbers.get(1).map_or(0, |number| *number as usize);
        let (mut shape, runs) = self.rows.of(shape, expert, spec)?;
        if self.transposed
            && let [.., outputs, inputs] = shape.as_mut_slice()
        {
            std::mem::swap(outputs, inputs);
        }
        Some(Kept { stored, shape, runs, transposed: self.transposed })
    }
}

impl Kept {
    /// By itself, under its own name.
    pub fn whole(name: &str, shape: &[usize]) -> Self {
        let rows = shape.first().copied().unwrap_or(1);
        let runs = Runs { first: 0, length: rows, stride: rows, count: 1 };
        Self { stored: name.to_owned(), shape: shape.to_vec(), runs, transposed: false }
    }
}

impl Rows {
    /// The shape (`[out, in]`) of the stored tensor in which a tensor of `shape` lies, and where in it.
    fn of(self, shape: &[usize], expert: usize, spec: &ModelSpec) -> Option<(Vec<usize>, Runs)> {
        let rows = *shape.first()?;
        let once = |first: usize| Runs { first, length: rows, stride: rows, count: 1 };
        let with_rows = |rows: usize| [&[rows], &shape[1..]].concat();
        let sizes =
            [spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.head_dim];
        let experts = spec.experts.map_or(0, |experts| experts.count);
        Some(match self {
            Self::All => (shape.to_vec(), once(0)),
            Self::Qkv(which) => (with_rows(sizes.iter().sum()), once(sizes[..which].iter().sum())),
            Self::HeadQkv(which) => {
                let length = spec.head_dim;
                let runs = Runs { first: which * length, length, stride: 3 * length, count: spec.heads };
                (with_rows(3 * spec.heads * length), runs)
            }
            Self::GateUp(which) => (with_rows(2 * rows), once(which * rows)),
            Self::Expert => ([&[experts], shape].concat(), once(expert * rows)),
            Self::ExpertGateUp(which) => {
                ([&[experts], with_rows(2 * rows).as_slice()].concat(), once((2 * expert + which) * rows))
            }
            Self::ExpertTurns(which) => {
                let runs = Runs { first: 2 * expert * rows + which, length: 1, stride: 2, count: rows };
                ([&[experts], with_rows(2 * rows).as_slice()].concat(), runs)
            }
        })
    }
}

/// The numbers in `name`, where it has the form of the template.
fn numbers(name: &str, template: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    let mut pieces = template.split("{}");
    let mut rest = name.strip_prefix(pieces.next()?)?;
    for piece in pieces {
        let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let number: u32 = rest[..end].parse().ok()?;
        // One spelling per number: `01` beside `1` would be two tensors of one name.
        if number.to_string().len() != end {
            return None;
        }
        numbers.push(number);
        rest = rest[end..].strip_prefix(piece)?;
    }
    rest.is_empty().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        let check = |name: &str, template: &str, expected: Option<&[u32]>| {
            assert_eq!(numbers(name, template).as_deref(), expected, "{name}");
        };
        check("output.weight", "output.weight", Some(&[]));
        check("blk.31.ffn_down.weight", "blk.{}.ffn_down.weight", Some(&[31]));
        check("blk.3.ffn_down.17.weight", "blk.{}.ffn_down.{}.weight", Some(&[3, 17]));
        check("blk.01.ffn_down.weight", "blk.{}.ffn_down.weight", None);
        check("blk.+1.ffn_down.weight", "blk.{}.ffn_down.weight", None);
        check("blk..ffn_down.weight", "blk.{}.ffn_down.weight", None);
        check("blk.1.ffn_down.weight.x", "blk.{}.ffn_down.weight", None);
        check("", "output.weight", None);
    }
}
