//! Small vectors of `f32` with one lane for each sub-block, so that a search over scales needs no sum across lanes.
//!
//! Every operation is a loop of fixed length over an array, which the compiler turns into one or two vector
//! instructions. Values are finite (the caller checks), so comparisons do not consider NaN.

use std::array::from_fn;
use std::ops::{Add, Mul, Neg, Sub};

use half::f16;

/// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, for |v| < 2^22.
const ROUNDER: f32 = 12_582_912.0;
/// Far below the smallest factor that a block can store (2^-24); its inverse is finite.
const NEGLIGIBLE: f32 = 1e-20;

/// One number for each of `L` sub-blocks.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(super) struct Lanes<const L: usize>(pub [f32; L]);

/// For each lane, whether a comparison holds.
pub(super) type Mask<const L: usize> = [bool; L];

impl<const L: usize> Lanes<L> {
    pub const ZERO: Self = Self([0.0; L]);

    #[inline(always)]
    pub fn splat(v: f32) -> Self {
        Self([v; L])
    }

    /// Returns `self * b + c` with one rounding.
    #[inline(always)]
    pub fn mul_add(self, b: Self, c: Self) -> Self {
        Self(from_fn(|l| self.0[l].mul_add(b.0[l], c.0[l])))
    }

    #[inline(always)]
    pub fn max(self, b: Self) -> Self {
        Self(from_fn(|l| if self.0[l] > b.0[l] { self.0[l] } else { b.0[l] }))
    }

    #[inline(always)]
    pub fn min(self, b: Self) -> Self {
        Self(from_fn(|l| if self.0[l] < b.0[l] { self.0[l] } else { b.0[l] }))
    }

    #[inline(always)]
    pub fn abs(self) -> Self {
        Self(from_fn(|l| self.0[l].abs()))
    }

    /// Returns the nearest integer within `low..=high`.
    #[inline(always)]
    pub fn round_within(self, low: f32, high: f32) -> Self {
        let clamped = self.max(Self::splat(low)).min(Self::splat(high));
        Self(from_fn(|l| (clamped.0[l] + ROUNDER) - ROUNDER))
    }

    /// Returns `1 / self`, or 0 where `self` is too small for any half-precision factor, as in an empty sub-block.
    #[inline(always)]
    pub fn inverse(self) -> Self {
        Self(from_fn(|l| if self.0[l].abs() < NEGLIGIBLE { 0.0 } else { 1.0 / self.0[l] }))
    }

    #[inline(always)]
    pub fn greater(self, b: Self) -> Mask<L> {
        from_fn(|l| self.0[l] > b.0[l])
    }

    /// Returns `a` where the mask holds, and `b` elsewhere.
    #[inline(always)]
    pub fn select(mask: Mask<L>, a: Self, b: Self) -> Self {
        Self(from_fn(|l| if mask[l] { a.0[l] } else { b.0[l] }))
    }

    #[inline(always)]
    pub fn sum(self) -> f32 {
        self.0.iter().sum()
    }

    /// Returns the largest lane.
    #[inline(always)]
    pub fn top(self) -> f32 {
        self.0.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
    }
}

impl<const L: usize> Add for Lanes<L> {
    type Output = Self;
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self(from_fn(|l| self.0[l] + b.0[l]))
    }
}

impl<const L: usize> Sub for Lanes<L> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Self(from_fn(|l| self.0[l] - b.0[l]))
    }
}

impl<const L: usize> Mul for Lanes<L> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Self(from_fn(|l| self.0[l] * b.0[l]))
    }
}

impl<const L: usize> Neg for Lanes<L> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(from_fn(|l| -self.0[l]))
    }
}

/// Returns the value that is read back after storing `v` in half precision.
#[inline(always)]
pub(super) fn half(v: f32) -> f32 {
    f16::from_f32(v).to_f32()
}

/// Returns the nearest half-precision number that is not closer to zero than `v`, with which the largest scale still fits
/// its integers. The nearest number would do among normal ones, but the factors of small weights are subnormal and have few
/// bits.
#[inline(always)]
pub(super) fn half_covering(v: f32) -> f32 {
    let near = f16::from_f32(v);
    let covers = near.to_f32().abs() >= v.abs() || near.to_bits() & 0x7fff == f16::MAX.to_bits();
    if covers { near.to_f32() } else { f16::from_bits(near.to_bits() + 1).to_f32() }
}

/// 256 values and their weights, transposed: entry `j` holds element `j` of every sub-block.
pub(super) struct SuperBlock<const L: usize, const N: usize> {
    pub x: [Lanes<L>; N],
    pub w: [Lanes<L>; N],
    /// Sums over each sub-block.
    pub sum_w: Lanes<L>,
    pub sum_wx: Lanes<L>,
    pub sum_wxx: Lanes<L>,
}

impl<const L: usize, const N: usize> SuperBlock<L, N> {
    /// `values` and `weights` in natural order, `L * N` long.
    #[inline(always)]
    pub fn new(values: &[f32], weights: &[f32]) -> Self {
        assert!(values.len() == L * N && weights.len() == L * N);
        let mut block = Self {
            x: [Lanes::ZERO; N],
            w: [Lanes::ZERO; N],
            sum_w: Lanes::ZERO,
            sum_wx: Lanes::ZERO,
            sum_wxx: Lanes::ZERO,
        };
        for j in 0..N {
            let x = Lanes(from_fn(|l| values[l * N + j]));
            let w = Lanes(from_fn(|l| weights[l * N + j]));
            let wx = w * x;
            block.x[j] = x;
            block.w[j] = w;
            block.sum_w = block.sum_w + w;
            block.sum_wx = block.sum_wx + wx;
            block.sum_wxx = wx.mul_add(x, block.sum_wxx);
        }
        block
    }
}
