//! A linear layer: the one type that owns a weight's storage. The decoder knows no element types.

use std::sync::Arc;

use millm_model::{TensorData, TensorInfo};

use crate::error::{Error, Result};
use crate::inputs::Scratch;
use crate::matrix::{self, Matrix, Product};
use crate::stored;
use crate::team::Team;
use crate::vector;

/// A weight matrix `[out, in]` as it was stored, shared where a model ties two layers.
#[derive(Clone)]
pub struct Weight {
    matrix: Arc<dyn Matrix>,
    pub rows: usize,
    pub columns: usize,
}

impl Weight {
    /// Copies a tensor of the expected shape into the engine's own memory, laid out for its kernels.
    pub fn read(team: &Team, data: TensorData<'_>, rows: usize, columns: usize) -> Result<Self> {
        check(data, &[rows, columns])?;
        let matrix = matrix::read(team, data.info.ty, data.bytes, rows, columns)?.into();
        Ok(Self { matrix, rows, columns })
    }

    /// Writes row `index` as f32.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.rows && out.len() == self.columns, "a row of the matrix");
        self.matrix.widen(index, out);
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        self.matrix.bytes()
    }
}

/// `y = x Wᵀ + b`.
pub struct Linear {
    pub weight: Weight,
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// `input` is `[rows, in]`, `out` `[rows, out]`; the first `steps` rows are steps (see [`crate::matrix`]).
    pub fn forward(&self, team: &Team, steps: usize, input: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        together(team, steps, input, [(self, out)], scratch);
    }
}

/// [`Linear::forward`] of layers that share their input, as one piece of work.
pub fn together<const N: usize>(
    team: &Team,
    steps: usize,
    input: &[f32],
    layers: [(&Linear, &mut [f32]); N],
    scratch: &mut Scratch,
) {
    let columns = layers[0].0.weight.columns;
    let biases = layers.each_ref().map(|(layer, _)| (layer.weight.rows, layer.bias.as_deref()));
    let mut products = layers.map(|(layer, out)| {
        let Weight { matrix, rows, columns: own } = &layer.weight;
        assert_eq!(*own, columns, "layers of one input");
        Product { matrix: &**matrix, rows: *rows, out }
    });
    matrix::multiply(team, steps, input, columns, &mut products, scratch);
    for (product, (rows, bias)) in products.iter_mut().zip(biases) {
        if let Some(bias) = bias {
            team.rows(product.out, rows, |_, row| vector::add(row, bias));
        }
    }
}

/// A vector (norm weight, bias), or a small table of `length` values, as f32, whatever it was stored as.
pub fn read_vector(data: TensorData<'_>, length: usize) -> Result<Vec<f32>> {
    let table = data.info.shape.len() > 1 && data.info.elements() == length as u64;
    check(data, if table { &data.info.shape } else { std::slice::from_ref(&length) })?;
    let mut values = vec![0.0; length];
    stored::read(data.info.ty, data.bytes, 1, length)?.widen(0, &mut values);
    Ok(values)
}

fn check(data: TensorData<'_>, shape: &[usize]) -> Result<()> {
    let TensorInfo { name, ty, shape: got, .. } = data.info;
    if got != shape {
        return Err(Error::Shape { name: name.clone(), expected: shape.to_vec(), got: got.clone() });
    }
    let expected = ty.bytes_for(shape);
    if expected != Some(data.bytes.len() as u64) {
        return Err(Error::Size {
            name: name.clone(),
            expected: expected.unwrap_or(0),
            got: data.bytes.len() as u64,
        });
    }
    Ok(())
}
