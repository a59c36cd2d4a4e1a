//! Weight matrices and their products with activations: the seam below which kernels are exchanged.
//!
//! Decode rows (one per running sequence) and prefill rows (many per prompt) may take different kernels: decode is limited
//! by the bandwidth of reading weights, prefill by arithmetic. The phase of a row does not depend on the rows beside it,
//! and each kernel sums a row in one order however many rows there are. So a sequence gets the same values, bit for bit,
//! alone and in a batch.
//!
//! [`load`] is the only file that knows all implementations of [`WeightMatrix`].

pub(crate) mod activations;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod load;
pub(crate) mod portable;
pub(crate) mod sgemm;

use std::ops::Range;

use crate::sys::thread_pool::{Arena, Cells, ThreadPool};
use activations::{ActivationFormat, Activations, Scratch};

/// The phase that a row of activations belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The newest token of a running sequence.
    Decode,
    /// A token of a prompt.
    Prefill,
}

/// A weight matrix `[rows, columns]`; that of a linear layer is `[out, in]`.
pub trait WeightMatrix: Send + Sync {
    /// Writes the values of whole rows as f32, from row `first` on, as many rows as `out` has room for.
    fn dequantize(&self, first: usize, out: &mut [f32]);

    /// Returns the format in which [`WeightMatrix::matmul`] takes activations.
    fn activation_format(&self, phase: Phase) -> ActivationFormat;

    /// Returns the preferred number of weight rows per call of [`WeightMatrix::matmul`], a multiple of [`ROW_UNIT`];
    /// `None` if the number does not matter.
    fn panel_rows(&self, phase: Phase) -> Option<usize>;

    /// Computes `out[i, j] = input[i] · weights[j]` for all rows i of the input and the weight rows j in `rows`.
    ///
    /// `rows` begins at a multiple of [`ROW_UNIT`] and ends at one or at the end of the matrix. No other thread may access
    /// these columns of `out` meanwhile. `arena` is the calling thread's scratch memory.
    fn matmul(
        &self,
        phase: Phase,
        arena: &mut Arena,
        input: &Activations<'_>,
        rows: Range<usize>,
        out: &Cells<'_>,
    );

    /// Returns the memory of the weights in bytes, without padding rows.
    fn bytes(&self) -> usize;
}

/// Work is divided between threads at multiples of this many weight rows.
pub const ROW_UNIT: usize = 32;

/// A weight matrix and the place for its product: `out` is `[m, rows]` for `m` rows of activations.
pub struct Product<'a> {
    pub matrix: &'a dyn WeightMatrix,
    pub rows: usize,
    pub out: &'a mut [f32],
}

/// Computes `out = input · matrixᵀ` for matrices that share their input, `[m, columns]`. The first `decode_rows` rows of
/// the input are in [`Phase::Decode`], the others in [`Phase::Prefill`].
pub fn multiply(
    pool: &ThreadPool,
    decode_rows: usize,
    input: &[f32],
    columns: usize,
    products: &mut [Product<'_>],
    scratch: &mut Scratch,
) {
    let (decode, prefill) = input.split_at(decode_rows * columns);
    for (phase, input, first_row) in [(Phase::Decode, decode, 0), (Phase::Prefill, prefill, decode_rows)] {
        if input.is_empty() {
            continue;
        }
        let formats = products.iter().map(|product| product.matrix.activation_format(phase));
        let activations = scratch.convert(pool, input, columns, formats);
        let parts: Vec<Part<'_>> =
            products.iter_mut().map(|product| Part::new(product, first_row, activations.m)).collect();
        run(pool, phase, &activations, &parts);
    }
}

/// A product, restricted to the rows of one phase.
struct Part<'a> {
    matrix: &'a dyn WeightMatrix,
    rows: usize,
    out: Cells<'a>,
}

impl<'a> Part<'a> {
    fn new(product: &'a mut Product<'_>, first_row: usize, m: usize) -> Self {
        let rows = product.rows;
        let out = Cells::new(&mut product.out[first_row * rows..(first_row + m) * rows], rows);
        Self { matrix: product.matrix, rows, out }
    }

    fn units(&self) -> usize {
        self.rows.div_ceil(ROW_UNIT)
    }
}

/// Divides the units of all parts between the threads.
fn run(pool: &ThreadPool, phase: Phase, activations: &Activations<'_>, parts: &[Part<'_>]) {
    let units: usize = parts.iter().map(Part::units).sum();
    let panel = parts.iter().filter_map(|part| part.matrix.panel_rows(phase)).min();
    let share = units.div_ceil(pool.threads());
    let grain = panel.map_or(pool.grain(units), |rows| (rows / ROW_UNIT).min(share));
    pool.run(units, grain, |arena, range| {
        let mut before = 0;
        for part in parts {
            let own = range.start.max(before)..range.end.min(before + part.units());
            // A single thread is given all units in one call, so panels are cut here as well.
            for start in own.clone().step_by(grain.max(1)) {
                let taken = start - before..own.end.min(start + grain) - before;
                let rows = taken.start * ROW_UNIT..part.rows.min(taken.end * ROW_UNIT);
                part.matrix.matmul(phase, arena, activations, rows, &part.out);
            }
            before += part.units();
        }
    });
}
