//! Linear layers and the weights that they own. The decoder knows no element types.

use std::sync::Arc;

use millm_model::{TensorData, TensorInfo};

use crate::error::{Error, Result};
use crate::matmul::activations::Scratch;
use crate::matmul::load::{load, load_table};
use crate::matmul::{Product, WeightMatrix, multiply};
use crate::sys::simd::add;
use crate::sys::thread_pool::ThreadPool;

/// A weight matrix `[out, in]`, shared if a model ties two layers.
#[derive(Clone)]
pub(crate) struct Weight {
    matrix: Arc<dyn WeightMatrix>,
    pub rows: usize,
    pub columns: usize,
}

impl Weight {
    /// Copies a tensor of the expected shape into the engine's own memory, in the layout of the pool's kernels.
    pub fn load(pool: &ThreadPool, data: TensorData<'_>, rows: usize, columns: usize) -> Result<Self> {
        check_shape(data, &[rows, columns])?;
        let matrix = load(pool, data.info.ty, data.bytes, rows, columns)?.into();
        Ok(Self { matrix, rows, columns })
    }

    /// Copies a tensor in the layout of the file: for tables of which only rows are read.
    pub fn load_table(data: TensorData<'_>, rows: usize, columns: usize) -> Result<Self> {
        check_shape(data, &[rows, columns])?;
        let matrix = load_table(data.info.ty, data.bytes, rows, columns)?.into();
        Ok(Self { matrix, rows, columns })
    }

    /// Writes row `index` as f32, `[in]`.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.rows && out.len() == self.columns, "a row of the matrix");
        self.matrix.dequantize(index, out);
    }

    /// Returns the bytes that the matrix takes.
    pub fn bytes(&self) -> usize {
        self.matrix.bytes()
    }
}

/// `y = x Wᵀ + b`.
pub(crate) struct Linear {
    pub weight: Weight,
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// Computes `out`, `[rows, out]`, from `input`, `[rows, in]`. The first `decode_rows` rows are decode rows (see
    /// [`crate::matmul`]).
    pub fn forward(
        &self,
        pool: &ThreadPool,
        decode_rows: usize,
        input: &[f32],
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        forward_together(pool, decode_rows, input, [(self, out)], scratch);
    }
}

/// Computes [`Linear::forward`] of layers that share their input, as one piece of work.
pub(crate) fn forward_together<const N: usize>(
    pool: &ThreadPool,
    decode_rows: usize,
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
    multiply(pool, decode_rows, input, columns, &mut products, scratch);
    for (product, (rows, bias)) in products.iter_mut().zip(biases) {
        if let Some(bias) = bias {
            pool.rows(product.out, rows, |_, row| add(row, bias));
        }
    }
}

/// Reads a vector (norm weights, a bias), or a small table of `length` values, as f32, whatever its type in the file.
pub(crate) fn read_vector(data: TensorData<'_>, length: usize) -> Result<Vec<f32>> {
    let table = data.info.shape.len() > 1 && data.info.elements() == length as u64;
    check_shape(data, if table { &data.info.shape } else { std::slice::from_ref(&length) })?;
    let mut values = vec![0.0; length];
    load_table(data.info.ty, data.bytes, 1, length)?.dequantize(0, &mut values);
    Ok(values)
}

/// Checks that a tensor has the expected shape, and the bytes that its shape and type give.
pub(crate) fn check_shape(data: TensorData<'_>, shape: &[usize]) -> Result<()> {
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
