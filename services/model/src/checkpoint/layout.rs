//! Where the tensors that the decoder reads lie in those that files have: a whole one, some of its rows, or one turned on
//! its side.

use std::borrow::Cow;
use std::ops::Range;

use super::Found;
use crate::names::{GGUF_FUSED, GGUF_GATE_UP, Kept, Runs, TensorName};
use crate::spec::{ExpectedTensor, ModelSpec};
use crate::tensor::TensorType;

/// Whose names a file uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    HuggingFace,
    Gguf,
}

impl Naming {
    /// How the file keeps a tensor: as the first of the ways that `stored` knows of, with the stored name and what `stored`
    /// says of it.
    pub fn find<T>(
        self,
        wanted: &ExpectedTensor,
        spec: &ModelSpec,
        stored: impl Fn(&str) -> Option<T>,
    ) -> Option<(Kept, String, T)> {
        let found = self.ways(wanted, spec).find_map(|kept| {
            let (name, known) = self.names(&kept.stored, spec).into_iter().find_map(|name| {
                let known = stored(&name)?;
                Some((name, known))
            })?;
            Some((kept, name, known))
        });
        found.or_else(|| {
            let known = stored(&wanted.name).filter(|_| self == Self::Gguf)?;
            let kept = Kept::whole(&wanted.name, &wanted.shape);
            Some((kept, wanted.name.clone(), known))
        })
    }

    /// Under which a file may have what it usually calls `name`.
    fn names(self, name: &str, spec: &ModelSpec) -> Vec<String> {
        let mut names = vec![name.to_owned()];
        if self == Self::Gguf {
            return names;
        }
        if spec.family.wrapper.is_some() {
            names.push(format!("language_model.{name}"));
            names.extend(name.strip_prefix("model.").map(|inner| format!("model.language_model.{inner}")));
        }
        // Some files are of the inner model and leave out its name in the outer one.
        names.extend(name.split_once('.').map(|(_, inner)| inner.to_owned()));
        names
    }

    /// The name people look for when it is missing.
    pub fn known_as(self, wanted: &ExpectedTensor, spec: &ModelSpec) -> String {
        let first = self.ways(wanted, spec).next();
        first.map_or_else(|| wanted.name.clone(), |kept| kept.stored)
    }

    fn ways<'a>(self, wanted: &'a ExpectedTensor, spec: &'a ModelSpec) -> impl Iterator<Item = Kept> + 'a {
        let tables: Vec<&[TensorName]> = match self {
            Self::HuggingFace => spec.family.names.to_vec(),
            Self::Gguf if spec.family.gguf.fused_gate_up => vec![GGUF_GATE_UP, GGUF_FUSED],
            Self::Gguf => vec![GGUF_FUSED],
        };
        let names = tables.into_iter().flatten();
        names.filter_map(|name| name.keeps(&wanted.name, &wanted.shape, spec))
    }
}

/// A tensor's bytes within a mapped file.
#[derive(Debug)]
pub(super) struct Place {
    pub map: usize,
    /// Of the stored tensor.
    range: Range<usize>,
    /// In bytes; of the stored rows where it is not turned.
    runs: Runs,
    turned: Option<Turned>,
}

/// A matrix stored `[in, out]`.
#[derive(Debug)]
struct Turned {
    inputs: usize,
    outputs: usize,
    element: usize,
}

impl Place {
    pub(super) fn new(found: &Found, ty: TensorType, shape: &[usize], kept: &Kept) -> Result<Self, String> {
        let Found { map, range, .. } = found;
        if kept.transposed {
            if ty.is_quantized() {
                return Err(format!("is stored on its side, which {ty} does not allow"));
            }
            let turned = Turned { inputs: kept.shape[0], outputs: kept.shape[1], element: ty.block_bytes() };
            return Ok(Self { map: *map, range: range.clone(), runs: kept.runs, turned: Some(turned) });
        }
        // A vector is a column; its elements are rows of one.
        let row = match shape {
            [_] if !ty.is_quantized() => ty.block_bytes(),
            [length] if kept.shape == [*length] => {
                let whole = Runs { first: 0, length: range.len(), stride: range.len(), count: 1 };
                return Ok(Self { map: *map, range: range.clone(), runs: whole, turned: None });
            }
            [_] => return Err(format!("is a part of a vector of {ty}")),
            _ => ty
                .bytes_for(&shape[1..])
                .ok_or_else(|| format!("has rows that are not whole blocks of {ty}"))?
                as usize,
        };
        let Runs { first, length, stride, count } = kept.runs;
        let runs = Runs { first: first * row, length: length * row, stride: stride * row, count };
        Ok(Self { map: *map, range: range.clone(), runs, turned: None })
    }

    /// All the bytes that it is put together from.
    pub(super) fn span(&self) -> Range<usize> {
        let Runs { first, length, stride, count } = self.runs;
        if self.turned.is_some() {
            return self.range.clone();
        }
        let start = self.range.start + first;
        start..start + (count - 1) * stride + length
    }

    pub(super) fn bytes<'a>(&self, file: &'a [u8]) -> Cow<'a, [u8]> {
        let stored = &file[self.range.clone()];
        let Runs { first, length, stride, count } = self.runs;
        let runs = (0..count).map(|index| first + index * stride..first + index * stride + length);
        match &self.turned {
            None if count == 1 => Cow::Borrowed(&stored[first..first + length]),
            None => Cow::Owned(runs.flat_map(|run| &stored[run]).copied().collect()),
            Some(turned) => {
                let mut bytes = Vec::with_capacity(count * length * turned.inputs * turned.element);
                runs.flatten().for_each(|row| turned.append(stored, row, &mut bytes));
                Cow::Owned(bytes)
            }
        }
    }
}

impl Turned {
    /// A row of the matrix `[out, in]`.
    fn append(&self, stored: &[u8], row: usize, bytes: &mut Vec<u8>) {
        for input in 0..self.inputs {
            let start = (input * self.outputs + row) * self.element;
            bytes.extend_from_slice(&stored[start..start + self.element]);
        }
    }
}
