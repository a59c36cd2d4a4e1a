//! Where the tensors that the decoder reads lie in those that files have: a whole one, some of its rows, one turned on its
//! side, or one in two parts.

use std::borrow::Cow;
use std::ops::Range;

use super::Found;
use super::packed::{self, Scales};
use crate::mapped::Mapped;
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
            Self::Gguf => vec![spec.family.gguf.names, GGUF_FUSED],
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
    /// Of the stored rows, in units of the form.
    runs: Runs,
    form: Form,
}

/// How a file holds what the decoder wants in rows.
#[derive(Debug)]
enum Form {
    /// Runs are of bytes.
    Rows,
    /// Runs are of rows.
    Turned(Turned),
    /// Blocks, with their scales elsewhere: runs are of rows of so many.
    Packed { scales: Scales, blocks: usize },
}

/// Matrices stored `[in, out]`, one after the other.
#[derive(Debug)]
struct Turned {
    inputs: usize,
    outputs: usize,
    element: usize,
}

impl Place {
    pub(super) fn new(found: &Found, ty: TensorType, shape: &[usize], kept: &Kept) -> Result<Self, String> {
        let place = |runs: Runs, form: Form| Self { map: found.map, range: found.range.clone(), runs, form };
        let columns = shape.last().copied().unwrap_or(1);
        if let (true, [.., inputs, outputs]) = (kept.transposed, kept.shape.as_slice()) {
            if ty.is_quantized() {
                return Err(format!("is stored on its side, which {ty} does not allow"));
            }
            let turned = Turned { inputs: *inputs, outputs: *outputs, element: ty.block_bytes() };
            return Ok(place(kept.runs, Form::Turned(turned)));
        }
        if let Some(scales) = &found.scales {
            let blocks = columns / ty.block_size();
            return Ok(place(kept.runs, Form::Packed { scales: scales.clone(), blocks }));
        }
        // A vector is a column; its elements are rows of one.
        let row = match shape {
            [_] if !ty.is_quantized() => ty.block_bytes(),
            [length] if kept.shape == [*length] => {
                let bytes = found.range.len();
                return Ok(place(Runs { first: 0, length: bytes, stride: bytes, count: 1 }, Form::Rows));
            }
            [_] => return Err(format!("is a part of a vector of {ty}")),
            _ => ty
                .bytes_for(&shape[1..])
                .ok_or_else(|| format!("has rows that are not whole blocks of {ty}"))?
                as usize,
        };
        let Runs { first, length, stride, count } = kept.runs;
        let runs = Runs { first: first * row, length: length * row, stride: stride * row, count };
        Ok(place(runs, Form::Rows))
    }

    /// The part of the stored tensor that it is put together from.
    pub(super) fn span(&self) -> Range<usize> {
        let Runs { first, length, stride, count } = self.runs;
        let end = first + (count - 1) * stride + length;
        let (first, end) = match &self.form {
            Form::Rows => (first, end),
            Form::Packed { blocks, .. } => (first * blocks * packed::BODY, end * blocks * packed::BODY),
            Form::Turned(turned) => {
                let matrix = turned.inputs * turned.outputs * turned.element;
                (first / turned.outputs * matrix, end.div_ceil(turned.outputs) * matrix)
            }
        };
        self.range.start + first..self.range.start + end
    }

    pub(super) fn bytes<'a>(&self, maps: &'a [Mapped]) -> Cow<'a, [u8]> {
        let stored = &maps[self.map][self.range.clone()];
        let Runs { first, length, stride, count } = self.runs;
        let runs = (0..count).map(|index| first + index * stride..first + index * stride + length);
        let rows = || runs.clone().flatten().collect::<Vec<_>>();
        match &self.form {
            Form::Rows if count == 1 => Cow::Borrowed(&stored[first..first + length]),
            Form::Rows => Cow::Owned(runs.flat_map(|run| &stored[run]).copied().collect()),
            Form::Turned(turned) => Cow::Owned(turned.back(stored, &rows())),
            Form::Packed { scales, blocks } => {
                let scales = &maps[scales.map][scales.range.clone()];
                Cow::Owned(packed::rows(stored, scales, *blocks, &rows()))
            }
        }
    }
}

impl Turned {
    /// Rows that are written side by side: what they are read from is in the caches then.
    const TOGETHER: usize = 32;

    /// Rows of the matrices `[out, in]`.
    fn back(&self, stored: &[u8], rows: &[usize]) -> Vec<u8> {
        let Self { inputs, outputs, element } = *self;
        let width = inputs * element;
        let mut bytes = vec![0; rows.len() * width];
        for (rows, bytes) in rows.chunks(Self::TOGETHER).zip(bytes.chunks_mut(Self::TOGETHER * width)) {
            for input in 0..inputs {
                for (row, out) in rows.iter().zip(bytes.chunks_exact_mut(width)) {
                    let from = ((row / outputs * inputs + input) * outputs + row % outputs) * element;
                    out[input * element..][..element].copy_from_slice(&stored[from..from + element]);
                }
            }
        }
        bytes
    }
}
