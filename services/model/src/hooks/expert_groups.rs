//! The tensors of a layer's experts as one entry for each kind: a model has hundreds of experts in each of its layers.

use super::outline::TensorOutline;
use crate::tensor::TensorInfo;

/// Consecutive experts' tensors of one kind, with equal shapes and types.
pub(super) struct ExpertGroup {
    /// `blk.3.ffn_gate`.
    before: String,
    /// `weight`.
    after: String,
    first: usize,
    last: usize,
    /// The first expert's tensor.
    tensor: TensorInfo,
    bytes: u64,
}

/// The name of one expert's tensor, `blk.3.ffn_gate.17.weight`, in parts.
pub(super) struct ExpertTensor<'a> {
    before: &'a str,
    expert: usize,
    after: &'a str,
}

impl<'a> ExpertTensor<'a> {
    /// Reads a canonical name; `None` if it is not that of an expert's tensor.
    pub fn parse(name: &'a str) -> Option<Self> {
        let (before, after) = name.rsplit_once('.')?;
        let (before, expert) = before.rsplit_once('.')?;
        // `blk.3.ffn_gate`: a layer's own tensors have nothing but their part before the last name.
        let is_part = before.strip_prefix("blk.")?.split_once('.').is_some();
        Some(Self { before, expert: expert.parse().ok().filter(|_| is_part)?, after })
    }
}

/// The groups of one module.
#[derive(Default)]
pub(super) struct ExpertGroups(Vec<ExpertGroup>);

impl ExpertGroups {
    /// Adds an expert's tensor: to the latest group of its kind where it follows there, and else to a new one.
    pub fn add(&mut self, name: &ExpertTensor<'_>, tensor: &TensorInfo) {
        let latest =
            self.0.iter_mut().rev().find(|group| group.before == name.before && group.after == name.after);
        if let Some(group) = latest
            && group.last + 1 == name.expert
            && group.tensor.ty == tensor.ty
            && group.tensor.shape == tensor.shape
        {
            group.last = name.expert;
            group.bytes += tensor.bytes;
            return;
        }
        self.0.push(ExpertGroup {
            before: name.before.to_owned(),
            after: name.after.to_owned(),
            first: name.expert,
            last: name.expert,
            tensor: tensor.clone(),
            bytes: tensor.bytes,
        });
    }

    /// Returns the groups as entries.
    pub fn into_outlines(self) -> impl Iterator<Item = TensorOutline> {
        self.0.into_iter().map(ExpertGroup::into_outline)
    }
}

impl ExpertGroup {
    fn into_outline(self) -> TensorOutline {
        let Self { before, after, first, last, tensor, bytes } = self;
        if first == last {
            return TensorOutline::of(&tensor);
        }
        let count = last - first + 1;
        TensorOutline {
            name: format!("{before}.{{{first}..{last}}}.{after}"),
            shape: std::iter::once(count).chain(tensor.shape.iter().copied()).collect(),
            dtype: tensor.ty.name(),
            parameters: count as u64 * tensor.elements(),
            bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorType;

    fn outlines(names: &[(&str, TensorType)]) -> Vec<(String, Vec<usize>, u64)> {
        let mut groups = ExpertGroups::default();
        for (name, ty) in names {
            let shape = vec![2, 32];
            let bytes = ty.bytes_for(&shape).unwrap();
            let tensor = TensorInfo { name: (*name).to_owned(), ty: *ty, shape, bytes };
            groups.add(&ExpertTensor::parse(name).unwrap(), &tensor);
        }
        groups.into_outlines().map(|tensor| (tensor.name, tensor.shape, tensor.bytes)).collect()
    }

    #[test]
    fn experts_that_follow_each_other_are_one_entry() {
        use TensorType::{F32, Q8_0};
        let list = outlines(&[
            ("blk.3.ffn_gate.0.weight", F32),
            ("blk.3.ffn_gate.0.bias", F32),
            ("blk.3.ffn_gate.1.weight", F32),
            ("blk.3.ffn_gate.1.bias", F32),
            ("blk.3.ffn_up.0.weight", Q8_0),
            ("blk.3.ffn_up.1.weight", F32),
        ]);
        assert_eq!(
            list,
            [
                ("blk.3.ffn_gate.{0..1}.weight".to_owned(), vec![2, 2, 32], 512),
                ("blk.3.ffn_gate.{0..1}.bias".to_owned(), vec![2, 2, 32], 512),
                ("blk.3.ffn_up.0.weight".to_owned(), vec![2, 32], 68),
                ("blk.3.ffn_up.1.weight".to_owned(), vec![2, 32], 256),
            ]
        );
    }

    #[test]
    fn only_experts_have_a_number_before_the_last_name() {
        assert!(ExpertTensor::parse("blk.3.ffn_gate.weight").is_none());
        assert!(ExpertTensor::parse("token_embd.weight").is_none());
        assert!(ExpertTensor::parse("blk.3.weight").is_none());
    }
}
