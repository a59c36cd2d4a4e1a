//! The location of a model's tensor in a file: the stored tensor that holds it, and the rows in that tensor.

use super::spec::ModelSpec;
use super::tensor_names::{Rows, TensorName};

/// Evenly spaced runs of rows in a stored tensor: `count` runs of `length` rows, each `stride` rows after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowRuns {
    pub first: usize,
    pub length: usize,
    pub stride: usize,
    pub count: usize,
}

/// The place of one of the model's tensors in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorLocation {
    /// The name of the stored tensor.
    pub stored: String,
    /// The shape that the stored tensor must have.
    pub shape: Vec<usize>,
    pub runs: RowRuns,
    pub transposed: bool,
}

impl TensorName {
    /// Locates the tensor `canonical` of this shape. Returns `None` where this entry names another tensor.
    pub(crate) fn locate(
        &self,
        canonical: &str,
        shape: &[usize],
        spec: &ModelSpec,
    ) -> Option<TensorLocation> {
        let numbers = numbers(canonical, self.canonical)?;
        let mut stored = self.stored.to_owned();
        for number in &numbers {
            stored = stored.replacen("{}", &number.to_string(), 1);
        }
        let expert = numbers.get(1).map_or(0, |number| *number as usize);
        let (mut shape, runs) = self.rows.within(shape, expert, spec)?;
        if self.transposed
            && let [.., outputs, inputs] = shape.as_mut_slice()
        {
            std::mem::swap(outputs, inputs);
        }
        Some(TensorLocation { stored, shape, runs, transposed: self.transposed })
    }
}

impl TensorLocation {
    /// The location of a tensor that is stored alone, under its own name.
    pub(crate) fn whole(name: &str, shape: &[usize]) -> Self {
        let rows = shape.first().copied().unwrap_or(1);
        let runs = RowRuns { first: 0, length: rows, stride: rows, count: 1 };
        Self { stored: name.to_owned(), shape: shape.to_vec(), runs, transposed: false }
    }
}

impl Rows {
    /// Returns the shape (`[out, in]`) of the stored tensor that holds a tensor of `shape`, and the rows in it.
    fn within(self, shape: &[usize], expert: usize, spec: &ModelSpec) -> Option<(Vec<usize>, RowRuns)> {
        let rows = *shape.first()?;
        let once = |first: usize| RowRuns { first, length: rows, stride: rows, count: 1 };
        let with_rows = |rows: usize| [&[rows], &shape[1..]].concat();
        let sizes =
            [spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.head_dim];
        let experts = spec.experts.map_or(0, |experts| experts.count);
        Some(match self {
            Self::All => (shape.to_vec(), once(0)),
            Self::Qkv(which) => (with_rows(sizes.iter().sum()), once(sizes[..which].iter().sum())),
            Self::HeadQkv(which) => {
                let length = spec.head_dim;
                let runs = RowRuns { first: which * length, length, stride: 3 * length, count: spec.heads };
                (with_rows(3 * spec.heads * length), runs)
            }
            Self::GateUp(which) => (with_rows(2 * rows), once(which * rows)),
            Self::Expert => ([&[experts], shape].concat(), once(expert * rows)),
            Self::ExpertGateUp(which) => {
                ([&[experts], with_rows(2 * rows).as_slice()].concat(), once((2 * expert + which) * rows))
            }
            Self::ExpertInterleaved(which) => {
                let runs = RowRuns { first: 2 * expert * rows + which, length: 1, stride: 2, count: rows };
                ([&[experts], with_rows(2 * rows).as_slice()].concat(), runs)
            }
        })
    }
}

/// Returns the numbers in `name` if it has the form of the template.
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
