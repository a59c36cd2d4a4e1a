//! A linear layer: the one type that owns a weight's storage. The decoder knows no element types.

use std::sync::Arc;

use millm_model::{TensorData, TensorInfo};

use crate::error::{Error, Result};
use crate::matrix::{self, Matrix, Rounded};
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
    /// Copies a tensor of the expected shape into the engine's own memory.
    pub fn read(data: TensorData<'_>, rows: usize, columns: usize) -> Result<Self> {
        check(data, &[rows, columns])?;
        let matrix = matrix::read(data.info.ty, data.bytes, rows, columns)?.into();
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
    pub fn forward(&self, team: &Team, steps: usize, input: &[f32], out: &mut [f32], rounded: &mut Rounded) {
        let Weight { matrix, rows, columns } = &self.weight;
        matrix::multiply(&**matrix, (*rows, *columns), team, steps, input, out, rounded);
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(*rows) {
                vector::add(row, bias);
            }
        }
    }
}

/// A vector (norm weight, bias), or a small table of `length` values, as f32, whatever it was stored as.
pub fn read_vector(data: TensorData<'_>, length: usize) -> Result<Vec<f32>> {
    let table = data.info.shape.len() > 1 && data.info.elements() == length as u64;
    if table {
        check(data, &data.info.shape)?
    } else {
        check(data, &[length])?
    };
    let mut values = vec![0.0; length];
    matrix::read(data.info.ty, data.bytes, 1, length)?.widen(0, &mut values);
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
