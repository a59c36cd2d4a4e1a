//! Small vectors of `f32`: one lane per sub-block, so that a search over scales needs no sum across lanes.
//!
//! Every operation is a loop of fixed length over an array; the compiler turns it into one or two vector
//! instructions. Values are finite here (the caller checks), so comparisons need no care for NaN.

use std::array::from_fn;
use std::ops::{Add, Mul, Neg, Sub};

use half::f16;

/// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, for |v| < 2^22.
const ROUNDER: f32 = 12_582_912.0;
/// Far below what survives in a block (2^-24 and up), and its inverse is finite.
const NOTHING: f32 = 1e-20;

#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(super) struct Lanes<const L: usize>(pub [f32; L]);

/// Which lanes a comparison holds for.
pub(super) type Mask<const L: usize> = [bool; L];

impl<const L: usize> Lanes<L> {
    pub const ZERO: Self = Self([0.0; L]);

    #[inline(always)]
    pub fn splat(v: f32) -> Self {
        Self([v; L])
    }

    /// `self * b + c`, fused.
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

    /// The nearest integer within `low..=high`.
    #[inline(always)]
    pub fn round_within(self, low: f32, high: f32) -> Self {
        let clamped = self.max(Self::splat(low)).min(Self::splat(high));
        Self(from_fn(|l| (clamped.0[l] + ROUNDER) - ROUNDER))
    }

    /// `1 / self`, and 0 where `self` is so near to 0 that no half-precision factor could tell: what an empty
    /// sub-block wants.
    #[inline(always)]
    pub fn inverse(self) -> Self {
        Self(from_fn(|l| if self.0[l].abs() < NOTHING { 0.0 } else { 1.0 / self.0[l] }))
    }

    #[inline(always)]
    pub fn greater(self, b: Self) -> Mask<L> {
        from_fn(|l| self.0[l] > b.0[l])
    }

    /// `a` where the mask holds, else `b`.
    #[inline(always)]
    pub fn select(mask: Mask<L>, a: Self, b: Self) -> Self {
        Self(from_fn(|l| if mask[l] { a.0[l] } else { b.0[l] }))
    }

    #[inline(always)]
    pub fn sum(self) -> f32 {
        self.0.iter().sum()
    }

    /// The largest lane.
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

/// What a half-precision factor will be read back as.
#[inline(always)]
pub(super) fn half(v: f32) -> f32 {
    f16::from_f32(v).to_f32()
}

/// The next half-precision number away from zero: with it the largest scale still fits its integers. Nearest
/// would do among normal numbers, but the factors of small weights are subnormal, with few bits.
#[inline(always)]
pub(super) fn half_covering(v: f32) -> f32 {
    let near = f16::from_f32(v);
    let covers = near.to_f32().abs() >= v.abs() || near.to_bits() & 0x7fff == f16::MAX.to_bits();
    if covers { near.to_f32() } else { f16::from_bits(near.to_bits() + 1).to_f32() }
}

/// 256 values and their weights, transposed: entry `j` holds element `j` of every sub-block.
pub(super) struct Panel<const L: usize, const N: usize> {
    pub x: [Lanes<L>; N],
    pub w: [Lanes<L>; N],
    /// Sums over each sub-block.
    pub sum_w: Lanes<L>,
    pub sum_wx: Lanes<L>,
    pub sum_wxx: Lanes<L>,
}

impl<const L: usize, const N: usize> Panel<L, N> {
    /// `values` and `weights` in natural order, `L * N` long.
    #[inline(always)]
    pub fn new(values: &[f32], weights: &[f32]) -> Self {
        assert!(values.len() == L * N && weights.len() == L * N);
        let mut panel = Self {
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
            panel.x[j] = x;
            panel.w[j] = w;
            panel.sum_w = panel.sum_w + w;
            panel.sum_wx = panel.sum_wx + wx;
            panel.sum_wxx = wx.mul_add(x, panel.sum_wxx);
        }
        panel
    }
}
