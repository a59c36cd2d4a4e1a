//! Encodes rows of `f32` into ggml's quantized blocks.
//!
//! Weighted least squares find each block's scales (and minimums). Larger values weigh more, as they do in a matrix
//! product, and an importance vector (the mean squared activation of each input column) multiplies the weights where it
//! is known. The layouts are ggml's, byte for byte; candle's and llama.cpp's decoders read them.

#![expect(
    clippy::inline_always,
    reason = "loops over lanes are vectorized only where they are inlined into their kernel"
)]

mod affine;
mod lanes;
mod pack;
mod signed;
mod sweep;

use half::{bf16, f16};

use crate::tensor::TensorType;
use lanes::SuperBlock;
use sweep::Sweep;

/// The largest value that is encoded: larger ones could overflow the half-precision factor of a block (or an F16 element).
pub const LARGEST: f32 = 65504.0;

/// The reason why a row cannot be encoded.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Unencodable {
    /// A value is infinite or not a number.
    #[error("column {column} is {value}, not a finite number")]
    NotFinite {
        /// The column of the first such value.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A value is over [`LARGEST`].
    #[error("column {column} is {value}, beyond what half-precision scales can hold")]
    TooLarge {
        /// The column of the first such value.
        column: usize,
        /// The value.
        value: f32,
    },
}

/// The elements of a super-block.
const SUPER: usize = 256;

/// Encodes one row. `row.len()` is a multiple of the type's block, and `out` has exactly the row's bytes. `importance`, if
/// known, has a non-negative weight for each column.
///
/// # Errors
/// [`Unencodable`] for a value that the type cannot hold.
///
/// # Panics
/// For lengths that do not match, and for types that no scheme produces. The plan excludes both.
pub fn encode_row(
    ty: TensorType,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Unencodable> {
    check(ty, row)?;
    let row = Row { values: row, importance };
    match ty {
        TensorType::F32 => fill(row.values, out, f32::to_le_bytes),
        TensorType::F16 => fill(row.values, out, |v| f16::from_f32(v).to_le_bytes()),
        TensorType::BF16 => fill(row.values, out, |v| bf16::from_f32(v).to_le_bytes()),
        TensorType::Q8_0 => q8_0(row.values, out),
        TensorType::Q4_0 => blocks_of_32(&row, &Q4_0, 18, pack::q4_0, out),
        TensorType::Q5_0 => blocks_of_32(&row, &Q5_0, 22, pack::q5_0, out),
        TensorType::Q2K => row.supers::<16, 16>(out, 84, |block, out| {
            let f = affine::fit(block, &Q2_K);
            pack::q2_k(&pack::Factors { d: f.d, dmin: f.dmin }, &f.scales, &f.mins, &f.levels, out);
        }),
        TensorType::Q3K => row.supers::<16, 16>(out, 110, |block, out| {
            let f = signed::fit(block, &Q3_K);
            pack::q3_k(f.d, &f.scales, &f.levels, out);
        }),
        TensorType::Q4K => row.supers::<8, 32>(out, 144, |block, out| {
            let f = affine::fit(block, &Q4_K);
            pack::q4_k(&pack::Factors { d: f.d, dmin: f.dmin }, &f.scales, &f.mins, &f.levels, out);
        }),
        TensorType::Q5K => row.supers::<8, 32>(out, 176, |block, out| {
            let f = affine::fit(block, &Q5_K);
            pack::q5_k(&pack::Factors { d: f.d, dmin: f.dmin }, &f.scales, &f.mins, &f.levels, out);
        }),
        TensorType::Q6K => row.supers::<16, 16>(out, 210, |block, out| {
            let f = signed::fit(block, &Q6_K);
            pack::q6_k(f.d, &f.scales, &f.levels, out);
        }),
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::MXFP4 => unreachable!("no scheme plans {ty:?}"),
    }
    Ok(())
}

const Q2_K: affine::Range =
    affine::Range { levels: 3.0, scales: 15.0, sweep: Sweep { from: -0.9, step: 0.1, tries: 20 } };
const Q4_K: affine::Range =
    affine::Range { levels: 15.0, scales: 63.0, sweep: Sweep { from: -1.0, step: 0.1, tries: 21 } };
const Q5_K: affine::Range =
    affine::Range { levels: 31.0, scales: 63.0, sweep: Sweep { from: -1.0, step: 0.1, tries: 21 } };
const Q3_K: signed::Range =
    signed::Range { levels: 4.0, scales: 32.0, sweep: Sweep { from: -0.9, step: 0.15, tries: 13 } };
const Q6_K: signed::Range =
    signed::Range { levels: 32.0, scales: 128.0, sweep: Sweep { from: -0.9, step: 0.2, tries: 10 } };
const Q4_0: signed::Range =
    signed::Range { levels: 8.0, scales: 0.0, sweep: Sweep { from: -0.9, step: 0.2, tries: 12 } };
const Q5_0: signed::Range =
    signed::Range { levels: 16.0, scales: 0.0, sweep: Sweep { from: -0.9, step: 0.2, tries: 12 } };

/// One row, with the weights of its columns.
struct Row<'a> {
    values: &'a [f32],
    importance: Option<&'a [f32]>,
}

impl Row<'_> {
    /// Encodes each 256 elements, as `L` sub-blocks of `N`, into `bytes` bytes of `out`.
    #[inline(always)]
    fn supers<const L: usize, const N: usize>(
        &self,
        out: &mut [u8],
        bytes: usize,
        encode: impl Fn(&SuperBlock<L, N>, &mut [u8]),
    ) {
        assert_eq!(out.len() * SUPER, self.values.len() * bytes, "row and output do not fit");
        for (at, (values, out)) in
            self.values.chunks_exact(SUPER).zip(out.chunks_exact_mut(bytes)).enumerate()
        {
            let weights = self.weights(at * SUPER, values);
            encode(&SuperBlock::new(values, &weights), out);
        }
    }

    /// Returns `importance * sqrt(variance + x^2)`, scaled to a mean of 1 so that tiny weights do not underflow.
    #[inline(always)]
    fn weights(&self, start: usize, values: &[f32]) -> [f32; SUPER] {
        let variance = values.iter().map(|x| x * x).sum::<f32>() / SUPER as f32;
        let mut weights = [0.0; SUPER];
        for (w, x) in weights.iter_mut().zip(values) {
            *w = x.mul_add(*x, variance).sqrt();
        }
        if let Some(importance) = self.importance {
            for (w, i) in weights.iter_mut().zip(&importance[start..]) {
                *w *= i;
            }
        }
        let mean = weights.iter().sum::<f32>() / SUPER as f32;
        let scale = if mean > 0.0 { 1.0 / mean } else { 0.0 };
        weights.map(|w| w.mul_add(scale, 1e-6))
    }
}

/// Encodes eight blocks of 32 at a time. A shorter rest is padded with zeros that are not written.
#[inline(always)]
fn blocks_of_32(
    row: &Row<'_>,
    range: &signed::Range,
    bytes: usize,
    pack: impl Fn(f16, &[u8], &mut [u8]),
    out: &mut [u8],
) {
    assert_eq!(out.len() * 32, row.values.len() * bytes, "row and output do not fit");
    for (at, (values, out)) in row.values.chunks(SUPER).zip(out.chunks_mut(8 * bytes)).enumerate() {
        let mut padded = [0.0; SUPER];
        padded[..values.len()].copy_from_slice(values);
        let weights = row.weights(at * SUPER, &padded);
        let fit = signed::fit_alone::<8, 32>(&SuperBlock::new(&padded, &weights), range);
        for (block, out) in out.chunks_exact_mut(bytes).enumerate() {
            pack(fit.d[block], &fit.levels[block * 32..(block + 1) * 32], out);
        }
    }
}

/// Encodes Q8_0. The largest value determines the scale: at eight bits a search gains nothing measurable.
fn q8_0(values: &[f32], out: &mut [u8]) {
    assert_eq!(out.len() * 32, values.len() * 34, "row and output do not fit");
    for (values, out) in values.chunks_exact(32).zip(out.chunks_exact_mut(34)) {
        let extreme = values.iter().fold(0.0_f32, |a, &x| if x.abs() > a { x.abs() } else { a });
        let stored = lanes::half(extreme / 127.0);
        let inverse = if stored > 0.0 { 1.0 / stored } else { 0.0 };
        let levels =
            std::array::from_fn(|j| (values[j] * inverse).round_ties_even().clamp(-127.0, 127.0) as i8);
        pack::q8_0(f16::from_f32(stored), &levels, out);
    }
}

fn fill<const BYTES: usize>(values: &[f32], out: &mut [u8], encode: impl Fn(f32) -> [u8; BYTES]) {
    assert_eq!(out.len(), values.len() * BYTES, "row and output do not fit");
    for (out, value) in out.chunks_exact_mut(BYTES).zip(values) {
        out.copy_from_slice(&encode(*value));
    }
}

/// Checks a row in one pass. Only where a value is wrong does a second pass find it.
fn check(ty: TensorType, row: &[f32]) -> Result<(), Unencodable> {
    let limit = if matches!(ty, TensorType::F32 | TensorType::BF16) { f32::MAX } else { LARGEST };
    if row.iter().all(|v| v.abs() <= limit) {
        return Ok(());
    }
    let (column, value) =
        row.iter().copied().enumerate().find(|(_, v)| v.is_nan() || v.abs() > limit).expect("one is not");
    Err(if value.is_finite() {
        Unencodable::TooLarge { column, value }
    } else {
        Unencodable::NotFinite { column, value }
    })
}

#[cfg(test)]
mod tests;
